"""The client library: submit a request, await its decision, confirm, release, cancel.

    with Frontend(settings) as frontend:
        decision = frontend.place("m1.small", timeout=30)

`session` and `settling` are pure; `client` performs what they say; `aio` is the same client for asyncio.
"""

from commonplace.frontend.aio import AsyncFrontend
from commonplace.frontend.client import Frontend
from commonplace.frontend.pending import Pending
from commonplace.frontend.settling import Confirmed, Released, TooLate

__all__ = ["AsyncFrontend", "Confirmed", "Frontend", "Pending", "Released", "TooLate"]
