"""Place several instances at once with asyncio:  python examples/place_async.py [FLAVOR] [COUNT]"""

import asyncio
import sys

from commonplace import settings
from commonplace.frontend import AsyncFrontend


async def main(flavor: str = "m1.small", count: str = "10") -> None:
    """Submit all at once; confirm what was placed, then release it."""
    async with AsyncFrontend(settings.load()) as frontend:
        decisions = await asyncio.gather(*(frontend.place(flavor) for _ in range(int(count))))
        placed = [decision for decision in decisions if decision.result == "placed"]
        print(f"{len(placed)} of {count} placed on {len({p.host for d in placed for p in d.placed})} hosts")
        await asyncio.gather(*(frontend.confirm(decision, wait=True) for decision in placed))
        await asyncio.gather(*(frontend.release(decision) for decision in placed))


asyncio.run(main(*sys.argv[1:]))
