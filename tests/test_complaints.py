"""What a bad record is told, in words that say which field and what it must be."""

import pytest

from commonplace.core.codec import Bad, decode
from commonplace.core.complaints import complaint

BUILD = b'{"type":"build","id":"a","flavor":"x"'


@pytest.mark.parametrize(
    ("topic", "record", "says"),
    [
        ("requests", b'{"type":"build","id":"","flavor":"x"}', "id must begin with a letter or a digit"),
        ("requests", BUILD + b',"count":0}', "count must be at least 1"),
        ("requests", BUILD + b',"count":257}', "count must be at most 256"),
        ("requests", BUILD + b',"count":"7"}', "count must be a whole number, not text"),
        ("requests", BUILD + b',"project":"' + b"a" * 129 + b'"}', "project must have at most 128 characters"),
        ("requests", BUILD + b',"traits_required":["a b"]}', "traits_required[0] must begin with a capital letter"),
        (
            "requests",
            BUILD + b',"traits_required":[' + b",".join([b'"A"'] * 257) + b"]}",
            "traits_required must have at most 256 entries",
        ),
        ("requests", b'{"type":"build","id":"a"}', "flavor is missing"),
        ("requests", BUILD + b',"colour":1}', "colour is not known here: leave it out"),
        ("requests", b'{"type":"bild"}', "type can't be 'bild'"),
        ("requests", b"[]", "the record must be an object, not a list"),
        ("requests", b'{"type":"b', "it ends in the middle: not JSON"),
        ("claims", b'{"type":"confirm","host":"h/1","request":"r","allocation":"a"}', "go on with those and . _ : -"),
    ],
)
def test_a_bad_record_is_told_which_field_and_what_it_must_be(topic: str, record: bytes, says: str) -> None:
    bad = decode(topic, record)
    assert isinstance(bad, Bad)
    assert says in bad.reason
    assert bad.reason.startswith(f"not a {topic} record: ")
    for word in ("Expected", "$", "regex", "`"):
        assert word not in bad.reason


def test_what_is_not_known_stays_as_it_was_said() -> None:
    said = "JSON is malformed: invalid character (byte 0)"
    assert complaint(said) == said
    assert complaint("") == ""
