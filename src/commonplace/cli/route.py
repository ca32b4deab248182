"""`commonplace route`: which pool serves a flavor."""

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.output import Column, emit, emit_done, say
from commonplace.errors import UsageError

if TYPE_CHECKING:
    from commonplace.frontend.routes import Routes
    from commonplace.settings import Settings

app = typer.Typer(
    help="Say which pool serves a flavor, where that differs from the flavor's own record.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace route set m1.large --to ssd\n  commonplace route list",
)

Flavors = Annotated[list[str], typer.Argument(metavar="FLAVOR…", help="Names of flavors.")]


@app.command("set", epilog="\b\nExample:\n  commonplace route set m1.large m1.xlarge --to ssd")
def set_route(
    flavors: Flavors,
    to: Annotated[str, typer.Option("--to", metavar="POOL", help="The pool that serves them from now on.")],
) -> None:
    """Route flavors to a pool: new requests go there, those in the old pool's topic are settled there."""
    from commonplace.kafka.topics import pools

    settings, routes = _known(flavors)
    there = pools(settings)
    if to not in there:
        near = difflib.get_close_matches(to, there, n=1)
        hint = f"did you mean {near[0]}?" if near else f"`commonplace topics create --pool {to}` makes it"
        raise UsageError(f"pool {to} has no topics: {hint}")
    _write(settings, routes, flavors, to)
    _warn(there[to])


@app.command("list", epilog="\b\nExample:\n  commonplace route list -o json")
def list_routes() -> None:
    """List every flavor with the pool that serves it, that of its own record, and those before."""
    _, routes = _known(())
    rows = [
        {
            "flavor": name,
            "pool": routes.pool_of(name),
            "own_pool": flavor.pool,
            "before": list(routes.routing.before.get(name, ())),
        }
        for name, flavor in sorted(routes.flavors.items())
    ]
    emit(rows, columns=["flavor", "pool", "own_pool", Column("before", wide=True)], name="flavor")


@app.command("delete", epilog="\b\nExample:\n  commonplace route delete m1.large")
def delete(flavors: Flavors) -> None:
    """Route flavors to the pool of their own records again."""
    settings, routes = _known(flavors)
    _write(settings, routes, flavors, "")


def _known(names: "list[str] | tuple[()]") -> "tuple[Settings, Routes]":
    """The routes as they stand; UsageError names the first flavor that there is not."""
    from commonplace.frontend.checks import unknown_flavor
    from commonplace.frontend.routes import Routes
    from commonplace.kafka import client, control

    settings, routes = common.settings(), Routes()
    client.require_broker(settings)
    rows = [(0, 0, key.encode(), value) for key, value in control.read(settings).items()]
    routes.fold(rows)
    unknown = [name for name in names if name not in routes.flavors]
    if unknown:
        raise UsageError(unknown_flavor(unknown[0], routes.flavors))
    return settings, routes


def _write(settings: "Settings", routes: "Routes", flavors: list[str], pool: str) -> None:
    from commonplace.core.codec import encode
    from commonplace.frontend.routes import rerouted
    from commonplace.kafka import control

    changed = rerouted(routes.routing, routes.flavors, flavors, pool)
    control.write(settings, {"routing": encode(changed)})
    done = []
    for name in flavors:
        now = changed.pools.get(name, routes.flavors[name].pool)
        was = routes.pool_of(name)
        say(f"flavor {name} is placed by pool {now}" + (f", {was} before" if was != now else ", as before"))
        done.append({"flavor": name, "pool": now, "was": was})
    emit_done(done, name="flavor")


def _warn(settings: "Settings") -> None:
    """Say what the pool lacks to place anything."""
    from commonplace.ops.doctor_replicas import alive
    from commonplace.ops.fleet_view import FleetView

    pool = settings.topics.pool
    with FleetView(settings) as view:
        view.read()
        if not alive(view):
            say(f"warning: no replica of pool {pool} is alive: requests wait there; start `scheduler --pool {pool}`")
        if not any(not view.flags(row) for row in view.hosts()):
            say(
                f"warning: no host of pool {pool} is ready: requests find no valid host; start agents with --pool {pool}"
            )
