"""What follows from a request alone: the key it is written under, and the digest that tells two of one id apart."""

from hashlib import blake2b

import msgspec

from commonplace.core.partition import partition_of
from commonplace.core.records.control import Flavor
from commonplace.core.records.requests import Build, Cancel

CONTENT_DIGEST_BYTES = 8
"""As long as the state hash: requests of one id are few, so 64 bits never meet by chance."""

GROUP_KEY = "group/"
"""Keys of requests whose group is serialised begin with it; the group's name follows."""

_encode = msgspec.json.Encoder().encode


def serialised(request: Build) -> bool:
    """Whether the members of a request's group are decided one after another: no single host can settle affinity or skew (rule 8)."""
    return request.group_policy == "affinity" or request.max_skew > 0


def serialised_group(request: Build | Cancel) -> str:
    """The group whose name is the request's key, "" where the key is the flavor's."""
    return "" if isinstance(request, Build) and not serialised(request) else request.group


def request_key(request: Build | Cancel, flavor: Flavor) -> str:
    """The key of a request and of its cancel: `group/NAME` of a serialised group, else the flavor, or `flavor/k` where it spreads."""
    group = serialised_group(request)
    if group:
        return GROUP_KEY + group
    if flavor.spread == 1:
        return request.flavor
    return f"{request.flavor}/{partition_of(request.id, flavor.spread)}"


def key_misfit(key: bytes | None, request: Build | Cancel) -> str:
    """Why a request may not stand under a key, and what to do; "" when it may."""
    text, group = (key or b"").decode(errors="replace"), serialised_group(request)
    if group:
        if text == GROUP_KEY + group:
            return ""
        return (
            f"key {text!r:.80}: group {group!r:.80} is decided one member after another (affinity, max_skew), so its "
            f"requests go under the key {GROUP_KEY + group!r:.90}: submit it there under a new id, or by a frontend of this version"
        )
    flavor, slash, k = text.partition("/")
    if flavor == request.flavor and (not slash or (k.isdigit() and len(k) <= 4)):
        return ""
    return f"key {key!r:.80} is not of flavor {request.flavor!r}"


def content_digest(request: Build) -> str:
    """Digest of all that a request asks, as a decision names it in `content`: 16 hex digits.

    It is taken from the record decoded and written again, so that spacing and order of fields are no content.
    """
    return digest_of(_encode(request))


def digest_of(encoded: bytes) -> str:
    """`content_digest` of a request that is already encoded by msgspec."""
    return blake2b(encoded, digest_size=CONTENT_DIGEST_BYTES).hexdigest()
