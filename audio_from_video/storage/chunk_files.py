"""Files of a few dozen values by key, written once and never changed.

A file holds its values one after another, then a table of contents in JSON, [key, offset, length,
digest of the value] for each of them, then the length of that table (8 bytes) and its digest.

Such files need neither locks nor shared memory, which network file systems lack or get wrong. A
file appears whole, under a name made of its content: several machines may write into one folder.
"""

import json
import os
import uuid
from pathlib import Path

from audio_from_video.runtime.digests import new_hash

SUFFIX = ".items"
LENGTH_BYTES = 8
DIGEST_BYTES = new_hash().digest_size


class DamagedChunk(Exception):
    """A file, or a value of it, whose bytes are not those that were written."""


def write(folder: Path, values: dict[str, bytes]) -> Path:
    """Write values to a new file of `folder`, and return its path.

    Its bytes are on the disk before it gets its name, so that a crash leaves no half file.
    """
    contents = []
    offset = 0
    for key, value in values.items():
        contents.append([key, offset, len(value), new_hash(value).hexdigest()])
        offset += len(value)
    table = json.dumps(contents).encode()
    digest = new_hash(table)

    path = folder / f"{digest.hexdigest()}{SUFFIX}"
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.writelines(values.values())
            file.write(table)
            file.write(len(table).to_bytes(LENGTH_BYTES, "little"))
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class Chunk:
    """A file that `write` wrote, open for reading.

    keys: in the order in which they were written.  Raises DamagedChunk where its table of contents
    is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - `close` closes it
        self._contents = {}
        for key, offset, size, digest in self._table():
            self._contents[key] = (offset, size, digest)
        self.keys = list(self._contents)

    def _table(self) -> list:
        """Return the file's table of contents."""
        damage = DamagedChunk(f"{self.path}: its table of contents is not the one that was written")
        tail_bytes = LENGTH_BYTES + DIGEST_BYTES
        end = os.fstat(self._file.fileno()).st_size - tail_bytes
        if end < 0:
            raise damage
        tail = self._read(tail_bytes, end)
        size = int.from_bytes(tail[:LENGTH_BYTES], "little")
        if size > end:
            raise damage
        table = self._read(size, end - size)
        if new_hash(table).digest() != tail[LENGTH_BYTES:]:
            raise damage
        return json.loads(table)

    def _read(self, size: int, offset: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def value(self, key: str) -> bytes:
        """Return the value of a key; raise DamagedChunk where it is damaged."""
        offset, size, digest = self._contents[key]
        value = self._read(size, offset)
        if new_hash(value).hexdigest() != digest:
            raise DamagedChunk(f"{self.path}: the value of {key} is not the one that was written")
        return value

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        self._file.close()
