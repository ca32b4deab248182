"""What follows from a request alone: the key it is written under, and the digest that tells two of one id apart."""

from hashlib import blake2b

import msgspec

from commonplace.core.partition import partition_of
from commonplace.core.records import Build, Cancel, Flavor

CONTENT_DIGEST_BYTES = 8
"""As long as the state hash: requests of one id are few, so 64 bits never meet by chance."""

_encode = msgspec.json.Encoder().encode


def request_key(request: Build | Cancel, flavor: Flavor) -> str:
    """The key of a request and of its cancel: the flavor, or `flavor/k` where the flavor spreads over several keys."""
    if flavor.spread == 1:
        return request.flavor
    return f"{request.flavor}/{partition_of(request.id, flavor.spread)}"


def content_digest(request: Build) -> str:
    """Digest of all that a request asks, as a decision names it in `content`: 16 hex digits.

    It is taken from the record decoded and written again, so that spacing and order of fields are no content.
    """
    return digest_of(_encode(request))


def digest_of(encoded: bytes) -> str:
    """`content_digest` of a request that is already encoded by msgspec."""
    return blake2b(encoded, digest_size=CONTENT_DIGEST_BYTES).hexdigest()
