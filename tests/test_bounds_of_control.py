"""The largest record of each kind on `control` that the bounds allow can be written and read."""

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.records.control import AGGREGATE_HOSTS_MAX, Aggregate, Flavor, Profile
from commonplace.core.records.fields import RECORD_BYTES_MAX
from commonplace.core.records.requests import Build

WIDE = "\U0001f7e6"
"""Four bytes of UTF-8, the most that one character takes."""


def label(number: int) -> str:
    return f"{number:03}" + WIDE * 125


PROPERTIES = {label(i): WIDE * 1024 for i in range(64)}


def test_the_largest_aggregate_is_within_the_limit_of_records() -> None:
    hosts = tuple(f"{i:0128}" for i in range(AGGREGATE_HOSTS_MAX))
    labels = {label(i): label(i) for i in range(64)}
    raw = encode(Aggregate(name=label(0), hosts=hosts, labels=labels, zone=label(1), metadata=PROPERTIES))
    assert 0.8 * RECORD_BYTES_MAX < len(raw) <= RECORD_BYTES_MAX
    assert not isinstance(decode("control", raw), Bad)
    assert isinstance(decode("control", encode(Aggregate(name="a", hosts=(*hosts, "one-more")))), Bad)


def test_the_largest_profile_and_flavor_are_within_the_limit_of_records() -> None:
    hosts = tuple(f"{i:0128}" for i in range(1024))
    names = tuple(label(i) for i in range(256))
    for record in (
        Profile(name="p", isolated_hosts=hosts, isolated_images=names, filters=names[:64]),
        Flavor(name="f", resources={"VCPU": 1}, extra_specs=PROPERTIES),
    ):
        raw = encode(record)
        assert len(raw) <= RECORD_BYTES_MAX
        assert not isinstance(decode("control", raw), Bad)


def test_the_largest_request_is_within_the_limit_of_records() -> None:
    traits = tuple(f"T{i:0127}" for i in range(256))
    build = Build(
        id="r",
        flavor="f",
        hosts_ignored=tuple(f"{i:0128}" for i in range(256)),
        traits_required=traits,
        traits_forbidden=traits,
        instances=traits,
        image_properties=PROPERTIES,
        hints={label(i): (WIDE * 128,) * 16 for i in range(16)},
    )
    raw = encode(build)
    assert len(raw) <= RECORD_BYTES_MAX
    assert not isinstance(decode("requests", raw), Bad)
