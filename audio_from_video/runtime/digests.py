"""Digests: 128 bit BLAKE2b as 32 hexadecimal digits, the same on every machine."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(*parts: Any) -> str:
    """Return the digest of JSON-able parts; their order and types count."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return new_hash(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, new_hash).hexdigest()


def new_hash(content: bytes = b"") -> "hashlib.blake2b":
    """Return the hash object behind all digests, for content that comes in parts."""
    return hashlib.blake2b(content, digest_size=16)
