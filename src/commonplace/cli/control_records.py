"""What the commands that set, list and delete records of `control` share: they are checked as a scheduler would check them."""

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from commonplace.cli import common
from commonplace.cli.output import emit_done, say
from commonplace.core.complaints import complaint
from commonplace.errors import UsageError

if TYPE_CHECKING:
    from commonplace.core.records.control import Aggregate, Profile


def put(kind: type["Profile | Aggregate"], fields: Mapping[str, Any]) -> None:
    """Write a record, replacing the one of the same name whole; UsageError where a scheduler could not use it."""
    import msgspec

    from commonplace import plugins
    from commonplace.core.catalog import Catalog
    from commonplace.core.codec import encode
    from commonplace.kafka import client, control

    plugins.load()  # names that schedulers with the same packages will know
    word, settings = kind.__name__.lower(), common.settings()
    try:
        record = msgspec.convert({"type": word, **fields}, kind)
    except msgspec.ValidationError as e:
        raise UsageError(f"{word} {fields['name']!r}: {complaint(str(e))}") from e
    key = f"{word}/{record.name}"
    _, _, reason = Catalog(settings.topics.pool).fold(key.encode(), encode(record))
    if reason:
        raise UsageError(reason)
    client.require_broker(settings)
    control.write(settings, {key: encode(record)})
    say(f"{word} {record.name} set")
    emit_done(record)


def known(kind: type["Profile | Aggregate"]) -> dict[str, Any]:
    """The records of a kind by name; those that cannot be decoded are left out (the replicas quarantine them)."""
    from commonplace.core.codec import Bad, decode
    from commonplace.kafka import client, control

    settings = common.settings()
    client.require_broker(settings)
    prefix = f"{kind.__name__.lower()}/"
    found = {key: decode("control", value) for key, value in control.read(settings).items() if key.startswith(prefix)}
    return {record.name: record for record in found.values() if not isinstance(record, Bad)}


def delete(kind: type["Profile | Aggregate"], name: str) -> None:
    """Delete a record; UsageError with the nearest name where there is none."""
    from commonplace.kafka import control

    word, names = kind.__name__.lower(), known(kind)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise UsageError(
            f"no {word} {name!r}" + (f"; the nearest is {near[0]}" if near else f"; see `commonplace {word} list`")
        )
    control.write(common.settings(), {f"{word}/{name}": None})
    say(f"{word} {name} deleted")
    emit_done({"name": name, "deleted": True})


def pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Values of a repeatable option NAME=VALUE."""
    found = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise UsageError(f"{option} {text}: must be NAME=VALUE")
        found[name] = value
    return found


def numbers(option: str, texts: Sequence[str] | None) -> dict[str, float]:
    """Values of a repeatable option NAME=NUMBER."""
    try:
        return {name: float(value) for name, value in pairs(option, texts).items()}
    except ValueError as e:
        raise UsageError(f"{option}: {complaint(str(e))}: must be NAME=NUMBER") from e
