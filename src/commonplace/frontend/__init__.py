"""The client library: submit a request, await its decision, confirm, release, cancel.

    with Frontend(settings) as frontend:
        decision = frontend.place("m1.small", timeout=30)

`Frontend` serves one pool, `Router` all of a prefix: it takes each request to the pool of its flavor, and moves instances between pools.
`session`, `settling` and `routes` are pure; `client` performs what they say; `AsyncFrontend` and `AsyncRouter` are the same for asyncio.
"""

from commonplace.frontend.aio import AsyncFrontend
from commonplace.frontend.aio_router import AsyncRouter
from commonplace.frontend.client import Frontend
from commonplace.frontend.moving import Moved, Source
from commonplace.frontend.pending import Pending
from commonplace.frontend.router import Router
from commonplace.frontend.settling import Confirmed, Released, TooLate

__all__ = [
    "AsyncFrontend",
    "AsyncRouter",
    "Confirmed",
    "Frontend",
    "Moved",
    "Pending",
    "Released",
    "Router",
    "Source",
    "TooLate",
]
