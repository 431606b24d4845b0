"""From clips to an output: growth equals a fresh run, keys chain, no clip gets another's item."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import DamagedStore, UserError
from audio_from_video.runtime.parts import Part, PartDone
from audio_from_video.runtime.stage_run import StageRun
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import item_store, shards
from audio_from_video.storage.clip_items import ClipItems
from tests.support.stored_items import (
    COLUMNS,
    LEVEL,
    OUTPUT,
    clips,
    compute,
    damage_value,
    pack_clips,
)

pytestmark = pytest.mark.usefixtures("workspace")


def output_bytes() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in OUTPUT.rglob("*.parquet")}


def refuse_links(*_: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def counts(run: StageRun) -> tuple[int, int]:
    return run.log["computed"], run.log["reused"]


def test_growth_equals_a_run_from_scratch(workspace, monkeypatch):
    pack_clips(clips(10))
    grown, _ = pack_clips(clips(13))
    assert counts(grown) == (3, 10)
    grown_bytes = output_bytes()

    monkeypatch.setenv("ITEM_STORE", str(workspace.folder / "fresh"))
    fresh, _ = pack_clips(clips(13))
    assert counts(fresh) == (13, 0)
    assert grown_bytes == output_bytes()


def test_keys_chain_from_content_and_version():
    _, one = pack_clips(clips(2))
    _, two = pack_clips(clips(2), "v2")
    assert one[0]["item_key"] == digest("content 0", "v1")
    assert one[0]["level"] == 1.5
    assert len({row["item_key"] for row in one + two}) == 4


def test_a_refused_clip_has_a_row_without_key():
    def refusing(payloads) -> Iterator[dict]:
        for row in compute(payloads):
            refused = row["values"][0] == 1
            yield row | {"status": "unreadable", "reason": "no decoder"} if refused else row

    _, index = pack_clips(clips(3), function=refusing)
    assert [row["status"] for row in index] == ["ok", "unreadable", "ok"]
    assert [row["item_key"] is None for row in index] == [False, True, False]
    rows = shards.iter_rows(OUTPUT, ["values"])
    assert [row["clip_id"] for row in rows] == ["a/s_00", "a/s_02"]


def test_a_failed_clip_has_its_reason_and_is_tried_again():
    def failing(payloads) -> Iterator[dict | Failure]:
        for row in compute(payloads):
            yield Failure("timeout", "slow") if row["values"][0] == 1 else row

    _, index = pack_clips(clips(3), function=failing)
    assert [(row["status"], row["reason"]) for row in index][1] == ("timeout", "slow")
    assert index[1]["level"] is None
    again, _ = pack_clips(clips(3))
    assert counts(again) == (1, 2)


def test_payloads_of_other_clips_are_refused_and_nothing_is_stored_under_their_keys():
    payloads = [(clip["clip_id"], clip["number"]) for clip in clips(3)]
    swapped = [payloads[0], payloads[2], payloads[1]]
    for wrong, there in ((swapped, "the clip a/s_02"), (payloads[:1], "no more clips")):
        with ClipItems("stage", "v1", COLUMNS) as items, pytest.raises(UserError) as caught:
            items.fill(StageRun("stage", "", 1), clips(3), wrong, compute)
        assert (
            "the clips of stage and what is read for them do not hold the same clips in the same "
            f"order: where the first has the clip a/s_01, the second has {there}"
        ) in str(caught.value)
    run, _ = pack_clips(clips(3))
    assert counts(run) == (3, 0)


def test_a_damaged_item_is_told_when_it_is_packed_and_computed_anew(monkeypatch):
    # Without links the items stay where they were stored.
    monkeypatch.setattr(os, "link", refuse_links)
    pack_clips(clips(5))
    before = output_bytes()
    damage_value("content 3", item_store.folder() / "stage/v1")
    with pytest.raises(DamagedStore, match="1 files of the item store .* are computed anew"):
        pack_clips(clips(5))
    assert output_bytes() == before
    run, _ = pack_clips(clips(5))
    assert counts(run) == (5, 0)
    assert output_bytes() == before


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_and_a_plain_run_equal_the_whole(workspace, monkeypatch, count):
    pack_clips(clips(10))
    whole = output_bytes()

    monkeypatch.setenv("ITEM_STORE", str(workspace.folder / "parts"))
    shutil.rmtree(OUTPUT)
    done = []
    for number in range(count):
        run = StageRun("stage", "", 1, Part(number, count))
        payloads = [(clip["clip_id"], clip["number"]) for clip in clips(10)]
        with ClipItems("stage", "v1", COLUMNS, [LEVEL]) as items, pytest.raises(PartDone):
            items.fill(run, clips(10), payloads, compute)
        assert not OUTPUT.exists()
        done.append(run.log["computed"])
    assert sum(done) == 10 and max(done) - min(done) <= 1
    packing, _ = pack_clips(clips(10))
    assert counts(packing) == (0, 10)
    assert output_bytes() == whole
