"""Short names of values: digests that are equal exactly when what was digested is equal.

Belongs here: texts, bytes and what JSON can say. The identity of a frame is :mod:`ml_platform.core.content`.
"""

import hashlib
import json
from collections.abc import Mapping

DIGEST_BYTES = 16
"""So many that no two values of a lake share a digest by chance."""


def digest(*parts: str | bytes) -> str:
    """Hex digest of the parts, each delimited so that no two different sequences meet."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def digest_mapping(values: Mapping[str, object]) -> str:
    """Hex digest of a JSON-able mapping, whatever the order of its keys."""
    return digest(json.dumps(values, sort_keys=True, default=str))
