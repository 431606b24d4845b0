"""Shards of outputs that the item store holds by hard link, in place of the items in them.

What an output holds need not stand in the store a second time.  Of a shard of data/frames, say, a
version's folder has

    <key>.parquet   the shard itself: another name of the same file
    <key>.facts     a Parquet file with a row per clip of the shard:
        item        string   the clip's key in the store
        row         int32    its row in the shard; -1: it has none there
        whole       bool     the stored item can be read from here
        status, reason and the stage's facts, as they stand in the output's index
                    and in its metadata `digest`, that of the shard

`key` names all that the shard was packed from, so that an unchanged shard is linked again, not
packed again.  Where the file system has no hard links, nothing is kept here.
"""

import errno
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.runtime.digests import file_digest
from audio_from_video.storage import shards

SHARD_SUFFIX = ".parquet"
FACTS_SUFFIX = ".facts"
DIGEST = b"digest"
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
OWN_FIELDS = (
    pa.field("item", pa.string()),
    pa.field("row", pa.int32()),
    pa.field("whole", pa.bool_()),
)


class DamagedShard(Exception):
    """A shard, or its facts, whose bytes are not those that were written."""


class PackedShard:
    """A shard that the store holds, with the facts of its clips.

    facts: a row per clip (see the module).  Raises DamagedShard where they cannot be read, or the
    shard is gone.
    """

    def __init__(self, facts_path: Path):
        self.key = facts_path.stem
        self.facts_path = facts_path
        self.path = facts_path.with_suffix(SHARD_SUFFIX)
        try:
            self.facts = shards.read_file(facts_path)
            self.digest = self.facts.schema.metadata[DIGEST].decode()
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise DamagedShard(f"{facts_path}: {error}") from None
        if not self.path.is_file():
            raise DamagedShard(f"{self.path} is gone")
        self._group: tuple[int, list[dict]] | None = None  # the row group that was read last

    def whole_items(self) -> dict[str, int]:
        """Return the rows of the facts by item, of items that can be read from here."""
        items = self.facts["item"].to_pylist()
        whole = self.facts["whole"].to_pylist()
        return {item: row for row, item in enumerate(items) if whole[row]}

    def item(self, facts_row: int) -> dict:
        """Return the item in a row of the facts, with what else stands in its row of the shard.

        Raises DamagedShard where the shard is damaged.
        """
        facts = self.facts.slice(facts_row, 1).to_pylist()[0]
        if facts["row"] < 0:
            return facts
        group, place = divmod(facts["row"], shards.ROWS_PER_GROUP)
        return self._rows(group)[place] | facts

    def _rows(self, group: int) -> list[dict]:
        """Return the rows of a row group.  They are kept: the next item is likely among them."""
        if self._group is None:
            self.require_sound()
        if self._group is None or self._group[0] != group:
            with pq.ParquetFile(self.path) as file:
                self._group = (group, shards.to_rows(file.read_row_group(group)))
        return self._group[1]

    def forget_rows(self) -> None:
        """Free the memory of the rows that were read."""
        self._group = None

    def require_sound(self) -> None:
        """Raise DamagedShard where the shard's bytes are not those that were written."""
        if file_digest(self.path) != self.digest:
            raise DamagedShard(f"{self.path}: its bytes are not those that were written")

    def link_to(self, path: Path) -> None:
        """Give the shard another name.

        Raises DamagedShard where it is damaged, OSError where there can be no link.
        """
        self.require_sound()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.path, path)

    def remove(self) -> None:
        """Delete it from the store."""
        self.facts_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def keep(
    folder: Path,
    key: str,
    shard: Path,
    digest: str,
    facts: list[dict[str, Any]],
    fields: Iterable[pa.Field],
) -> PackedShard | None:
    """Link a shard into the store's folder, with its facts; None where links cannot be made.

    digest: of the shard.  facts: a row per clip, with OWN_FIELDS and `fields`.
    """
    linked = folder / f"{key}{SHARD_SUFFIX}"
    facts_path = folder / f"{key}{FACTS_SUFFIX}"
    name = uuid.uuid4().hex
    temporary = folder / f".{name}.tmp"
    temporary_facts = folder / f".{name}.facts.tmp"
    try:
        os.link(shard, temporary)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return None
    try:
        schema = pa.schema([*OWN_FIELDS, *fields], {DIGEST: digest.encode()})
        table = pa.Table.from_pylist(facts, schema=schema)
        pq.write_table(table, temporary_facts, compression="zstd", write_page_checksum=True)
        # The facts last: they say that the shard is there.
        os.replace(temporary, linked)
        os.replace(temporary_facts, facts_path)
    finally:
        for path in (temporary, temporary_facts):
            with suppress(FileNotFoundError):
                path.unlink()
    return PackedShard(facts_path)
