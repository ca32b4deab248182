"""Records are bounded and decoding never raises, whatever the bytes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.names import printable
from commonplace.core.records.claims import Claim, Release
from commonplace.core.records.fields import ALLOCATIONS_MAX, COUNT_MAX, RECORD_BYTES_MAX
from commonplace.core.records.hosts import SETTLED_MAX, Allocation, Settled, Snapshot, Start
from commonplace.core.records.requests import Build
from commonplace.core.records.topics import TOPIC_RECORDS
from commonplace.core.resources import AMOUNT_MAX, Inventory
from test_golden import RECORDS

topics = st.sampled_from(sorted(TOPIC_RECORDS))


def value(name: str) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(encode(RECORDS[name][1]))
    return out


def decoded(name: str, **change: Any) -> Any:
    return decode(RECORDS[name][0], msgspec.json.encode(value(name) | change))


@given(topics, st.binary(max_size=200))
def test_decode_never_raises_on_bytes(topic: str, raw: bytes) -> None:
    assert isinstance(decode(topic, raw), Bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_decode_of_a_mutated_record_gives_a_record_or_says_why_not(name: str, data: Any) -> None:
    topic, record = RECORDS[name]
    fields = value(name)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(json_values)
    raw = json.dumps(fields).encode(errors="surrogatepass")
    out = decode(topic, raw)
    assert isinstance(out, Bad | type(record)) or (topic in ("hosts", "claims", "requests", "control") and encode(out))


@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_truncated_record_is_bad(name: str, data: Any) -> None:
    raw = encode(RECORDS[name][1])
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert isinstance(decode(RECORDS[name][0], raw[:cut]), Bad)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"snapshot"',
        b"{}",
        b'{"type":"snapshot"}',
        b'{"type":7}',
        b"\xff\xfe",
        b'{"type":"start","host":"\xff"}',
        b"[" * 100_000,
        b'{"type":"start","host":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"type":"start","host":"\\ud800"}',
        b'{"type":"start","host":"a"} {}',
        b'{"v":' + b"9" * 30 + b"}",
    ],
)
def test_garbage_is_bad_and_not_of_a_newer_version(raw: bytes) -> None:
    for topic in TOPIC_RECORDS:
        out = decode(topic, raw)
        assert isinstance(out, Bad)
        assert out.newer == 0


def test_record_beyond_the_size_limit_is_bad_before_it_is_parsed() -> None:
    raw = encode(Start(host="a")) + b" " * RECORD_BYTES_MAX
    out = decode("hosts", raw)
    assert isinstance(out, Bad)
    assert str(RECORD_BYTES_MAX) in out.reason


@pytest.mark.parametrize("v", [0, -1, 1.5, "1", None, True, 10**30])
def test_version_that_is_no_positive_integer_is_bad(v: Any) -> None:
    out = decode("hosts", json.dumps({"type": "start", "host": "a", "v": v}).encode())
    assert isinstance(out, Bad)
    assert out.newer == 0


def test_version_is_always_on_the_wire_and_may_be_absent_when_read() -> None:
    assert value("start")["v"] == 1
    assert decode("hosts", b'{"type":"start","host":"a"}') == Start(host="a")


@pytest.mark.parametrize("name", ["", "a\n", "a\x00", "-a", "a/b", "a b", "é", "a" * 129, "a\u2028"])
def test_host_name_that_would_not_be_a_key_or_a_label_is_refused(name: str) -> None:
    assert isinstance(decoded("start", host=name), Bad)
    assert isinstance(decoded("claim", host=name), Bad)


@pytest.mark.parametrize("text", ["a\n", "a\x1b[31m", "\x7f", "a\u2029", "x" * 129, "\x9b"])
def test_label_with_control_characters_or_too_long_is_refused(text: str) -> None:
    assert isinstance(decoded("build", project=text), Bad)
    assert isinstance(decoded("snapshot", labels={"zone": text}), Bad)
    assert isinstance(decoded("snapshot", labels={text: "z"}), Bad)


@pytest.mark.parametrize("number", [-1, 2**53, 10**30, 1.5, "4", None])
def test_amount_outside_what_json_readers_keep_is_refused(number: Any) -> None:
    raw = json.dumps(value("flavor") | {"resources": {"VCPU": number}}).encode()
    assert isinstance(decode("control", raw), Bad)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("build", {"count": 0}),
        ("build", {"count": COUNT_MAX + 1}),
        ("build", {"instances": ["i"] * (COUNT_MAX + 1)}),
        ("build", {"deadline_ms": 7 * 24 * 3600 * 1000 + 1}),
        ("build", {"traits_required": [f"T{i}" for i in range(257)]}),
        ("claim", {"allocations": []}),
        ("claim", {"expected": "00"}),
        ("claim", {"expected": "0123456789ABCDEF"}),
        ("claim", {"mode": "maybe"}),
        ("snapshot", {"epoch": -1}),
        ("snapshot", {"claims_through": -2}),
        ("snapshot", {"inventory": {"vcpu": {"total": 1}}}),
        ("snapshot", {"inventory": {f"C{i}": {"total": 1} for i in range(33)}}),
        ("snapshot", {"inventory": {"VCPU": {"total": 1, "step_size": 0}}}),
        ("snapshot", {"inventory": {"VCPU": {"total": 1, "allocation_ratio_thousandths": 0}}}),
        ("snapshot", {"allocations": [{"id": "a", "resources": {}}] * (ALLOCATIONS_MAX + 1)}),
        ("snapshot", {"settled": [{"offset": 1, "verdict": "granted"}] * (SETTLED_MAX + 1)}),
        ("snapshot", {"labels": {f"l{i}": "" for i in range(65)}}),
        ("flavor", {"spread": 0}),
        ("flavor", {"resources": {}}),
    ],
)
def test_value_outside_its_bound_is_refused(name: str, change: dict[str, Any]) -> None:
    assert not isinstance(decoded(name), Bad)
    assert isinstance(decoded(name, **change), Bad)


def test_largest_snapshot_of_ordinary_allocations_stays_below_the_record_limit() -> None:
    allocation = Allocation(
        id="9f31c2d4-ffffff",
        request="r-0123456789abcdef",
        instance="r-0123456789abcdef.0",
        flavor="m1.medium",
        project="p" * 32,
        user="u" * 32,
        group="g" * 32,
        resources={"VCPU": 4, "MEMORY_MB": 16384, "DISK_GB": 100},
        lease_ms=300000,
        building=True,
    )
    raw = encode(
        Snapshot(
            host="host-00001",
            epoch=AMOUNT_MAX,
            generation=1,
            claims_topic="t" * 22,
            claims_through=1,
            hash="0" * 16,
            inventory={"VCPU": Inventory(total=64)},
            allocations=[allocation] * ALLOCATIONS_MAX,
            settled=[Settled(offset=AMOUNT_MAX, verdict="rejected", reason="stale", allocation="9f31c2d4-ffffff")]
            * SETTLED_MAX,
        )
    )
    assert len(raw) < RECORD_BYTES_MAX


def test_misspelt_constraint_of_a_request_or_claim_is_told() -> None:
    for name, kind in (("build", Build), ("claim", Claim), ("release", Release)):
        out = decoded(name, group_maximum=1)
        assert isinstance(decoded(name), kind)
        assert isinstance(out, Bad)
        assert "group_maximum" in out.reason


@pytest.mark.parametrize(
    ("name", "ok"), [("plain", True), ("città 4", True), ("a\n", False), ("\x1b[2J", False), ("\ud800", False)]
)
def test_names_with_control_characters_or_surrogates_are_not_printable(name: str, ok: bool) -> None:
    assert printable("fine", name) == ok
