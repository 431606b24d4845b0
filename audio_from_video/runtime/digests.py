"""Digests of bytes."""

import hashlib
import json
from typing import Any


def digest(*parts: Any) -> str:
    """Hex digest (128 bit BLAKE2b) of JSON-able parts; the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
