"""The audit: whether a pool kept its invariants, judged from the raw topics and docs/protocol.md alone.

It shares no code with the scheduler: own decoding, own hash, own arithmetic, held to the same published vectors. `check` is the judge, a
function of the logs; `run` reads them from Kafka.
"""

from commonplace.ops.audit.check import check
from commonplace.ops.audit.evidence import Entry, Log, Options
from commonplace.ops.audit.findings import AuditReport
from commonplace.ops.audit.read import run

__all__ = ["AuditReport", "Entry", "Log", "Options", "check", "run"]
