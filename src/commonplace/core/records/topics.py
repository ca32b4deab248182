"""What each topic holds."""

from typing import Any

from commonplace.core.records.claims import ClaimRecord
from commonplace.core.records.control import ControlRecord
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import HostRecord
from commonplace.core.records.quarantine import Quarantined
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.records.requests import RequestRecord

TOPIC_RECORDS: dict[str, Any] = {
    "hosts": HostRecord,
    "claims": ClaimRecord,
    "requests": RequestRecord,
    "decisions": Decision,
    "control": ControlRecord,
    "replicas": ReplicaReport,
    "quarantine": Quarantined,
}
"""What each topic holds; `commands` has no records yet."""
