"""Place one instance, confirm it, give it back:  python examples/place_one.py [FLAVOR]

Brokers and topics come from the settings: COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS=localhost:9092, or a file.
"""

import sys

from commonplace import settings
from commonplace.frontend import Confirmed, Frontend
from commonplace.ops import render

with Frontend(settings.load()) as frontend:
    decision = frontend.place(*sys.argv[1:2] or ["m1.small"], project="example", timeout=30)
    print("\n".join(render.decision(decision)))
    if decision.result != "placed":
        sys.exit(3)
    (outcome,) = frontend.confirm(decision, wait=True)
    print("active" if isinstance(outcome, Confirmed) else "lapsed before it was confirmed", "on", outcome.host)
    frontend.release(decision, wait=True)
    print("released")
