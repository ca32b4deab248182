"""Mutations of records: of their bytes, and of their JSON tokens, which get past the first brace far more often."""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[{}\[\],:]|true|false|null')
BYTES_MAX: Final = 1_200_000
"""Above RECORD_BYTES_MAX, so that records too large to be read come too."""

NUMBERS: Final = (
    b"0", b"-0", b"-1", b"1", b"2", b"255", b"256", b"257", b"65536", b"1001", b"2147483648", b"9007199254740991",
    b"9007199254740992", b"9223372036854775807", b"18446744073709551616", b"-9223372036854775809", b"1e3", b"1e308",
    b"1e999", b"-1e-400", b"0.1", b"1.5", b"NaN", b"Infinity", b"9" * 30, b"9" * 5_000,
)  # fmt: skip
STRINGS: Final = (
    b'""', b'" "', b'"a"', b'"h0"', b'"h1"', b'"small"', b'"b1"', b'"found:x"', b'"0000000000000000"', b'"VCPU"',
    b'"MEMORY_MB"', b'"CUSTOM_X"', b'"leased"', b'"active"', b'"enabled"', b'"disabled"', b'"renew"', b'"fits"',
    b'"a\\n"', b'"\\u0000"', b'"\x00"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\xed\xa0\x80"', b'"\xff\xfe"',
    b'"\xc2\x85"', b'"\\u2028"', b'"\\u202e"', b'"\\u001b[2J"', b'"/"', b'"../x"', b'"%s{0}"', b'"' + b"x" * 128 + b'"',
    b'"' + b"x" * 129 + b'"', b'"' + "ß".encode() * 128 + b'"', b'"' + b"y" * 1_025 + b'"', b'"' + b"z" * 300_000 + b'"',
)  # fmt: skip
OTHERS: Final = (
    b"null", b"true", b"false", b"[]", b"{}", b"[[]]", b'{"a":1}', b"[null]", b'{"VCPU":1}', b'{"":0}',
    b"[" * 900 + b"]" * 900, b"[" * 100_000, b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
)  # fmt: skip
FIELDS: Final = (
    b'"v":1', b'"v":2', b'"v":0', b'"v":999999', b'"v":null', b'"type":"snapshot"', b'"type":"start"', b'"type":"claim"',
    b'"unknown":1', b'"removed":true', b'"gap":true', b'"building":true', b'"host":"h0"', b'"group":"g"', b'"load":{"x":1e400}',
    b'"traits":["A","A"]', b'"settled":[{"offset":-1,"verdict":"granted"}]', b'"inventory":{"VCPU":{"total":9007199254740991}}',
    b'"labels":{"a":"b","a":"c"}', b'"allocations":[]', b'"upserts":[{"id":"","resources":{}}]',
    b'"cells":{"0":{"cpus":"0-3","cpus_dedicated":"4-7","siblings":["4,5"],"memory_mb":64}}',
    b'"cells":{"0":{"cpus_dedicated":"4-7","devices":[{"id":"g","class":"VGPU","shares":2}]}}',
    b'"assigned":{"0":{"cpus":"4-6","devices":{"g":3}}}', b'"threads":"require"', b'"shares":{"VGPU":2}',
    b'"cells":{"0":{"PCPU":2,"VGPU":2}}', b'"cells":{"0":{"VCPU":1}}', b'"explanation":{"evaluated":-1}',
)  # fmt: skip
STRINGS_SMALL: Final = tuple(string for string in STRINGS if len(string) < 1_000)
OTHERS_SMALL: Final = tuple(other for other in OTHERS if len(other) < 1_000)
PUNCTUATION: Final = frozenset((b"{", b"}", b"[", b"]", b",", b":"))


Chance = Callable[[], float]
"""`Random.random`: indexes are cut from it, because `randrange` and `choice` take five times as long and this is the inner loop."""


def tokens(raw: bytes) -> list[bytes]:
    """The JSON tokens of a record, without the space between them."""
    return TOKEN.findall(raw)


def mutated(r: Chance, of: list[bytes], other: list[bytes]) -> bytes:
    """A record near the one of these tokens, with pieces of another's now and then; at most BYTES_MAX bytes."""
    found = of.copy()
    _change(r, found, other)
    while r() < 0.3:
        _change(r, found, other)
    raw = b"".join(found)
    if r() < 0.15:
        raw = _bytes_changed(r, raw)
    return raw if len(raw) <= BYTES_MAX else raw[:BYTES_MAX]


def one(r: Chance, of: Sequence[T]) -> T:
    """Any of them."""
    return of[int(r() * len(of))]


def _change(r: Chance, found: list[bytes], other: list[bytes]) -> None:
    (_in_form if r() < 0.75 else _out_of_form)(r, found, other)


def _in_form(r: Chance, found: list[bytes], other: list[bytes]) -> None:
    """Another value, another field, or one field less: JSON stays JSON."""
    what = r()
    for at in range(int(r() * len(found)), len(found) - 1):
        token, after = found[at], found[at + 1]
        if token == b"{" and what < 0.2:
            found[at] = token + one(r, FIELDS) + (b"" if after == b"}" else b",")
            return
        if 0.2 <= what < 0.3 and after == b":" and found[at - 1] == b"," and found[at + 3 : at + 4] in ([b","], [b"}"]):
            del found[at - 1 : at + 3]
            return
        if after != b":" and token not in PUNCTUATION and what >= 0.3:
            found[at] = _replacement(r, token, other)
            return


def _out_of_form(r: Chance, found: list[bytes], other: list[bytes]) -> None:
    """Tokens lost, doubled, taken from elsewhere, or in each other's place."""
    if not found:
        found.append(b"{}")
    at, what = int(r() * len(found)), r()
    if what < 0.3:
        del found[at : at + 1 + int(r() * 8)]
    elif what < 0.6:
        piece = found[at : at + 1 + int(r() * 29)]
        found[at:at] = piece if r() < 0.98 else piece * int(2 + r() * 400)
    elif what < 0.9 and other:
        start = int(r() * len(other))
        found[at : at + int(r() * 3)] = other[start : start + 1 + int(r() * 19)]
    else:
        swap = int(r() * len(found))
        found[at], found[swap] = found[swap], found[at]


def _replacement(r: Chance, token: bytes, other: list[bytes]) -> bytes:
    """Another value: mostly of the same kind, so that it comes to the bounds and not to the type."""
    what = r()
    if what < 0.1:
        return one(r, OTHERS) if r() < 0.02 else one(r, OTHERS_SMALL)
    if what < 0.2 and other:
        return one(r, other)
    if token[:1] in b"-0123456789":
        if what < 0.6 and token.isdigit() and len(token) < 20:
            return b"%d" % max(0, int(token) + one(r, (-2, -1, 1, 1, 2, 10)))
        return one(r, NUMBERS)
    if token[:1] == b'"':
        if what < 0.6 and len(token) > 2:
            at = 1 + int(r() * (len(token) - 2))
            return token[:at] + one(r, (b"", b"a", b"0", b"_", b"\\n", b" ")) + token[at + 1 :]
        return one(r, STRINGS) if r() < 0.02 else one(r, STRINGS_SMALL)
    return one(r, (b"true", b"false", b"null", b"0"))


def _bytes_changed(r: Chance, raw: bytes) -> bytes:
    """Flipped, cut, doubled or noisy bytes."""
    changed = bytearray(raw)
    for _ in range(one(r, (1, 1, 2, 8))):
        at, what = int(r() * len(changed)), r()
        if what < 0.4 and changed:
            changed[at] ^= 1 << int(r() * 8)
        elif what < 0.6:
            changed[at:at] = bytes(int(r() * 256) for _ in range(3))
        elif what < 0.8:
            del changed[at : at + 1 + int(r() * 20)]
        elif what < 0.9:
            del changed[at:]
        else:
            changed += changed[at : at + 1_000]
    return bytes(changed)
