"""Motion of known size, decisions by hand, recall of events against brute force."""

import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.evaluation.motion import event_agreement, steps_at
from audio_from_video.media import codecs, motion
from audio_from_video.media.motion import above, camera_motion, choose, mean_magnitudes
from audio_from_video.reporting import motion_figure
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards
from stages import representative_frames
from tests.support.map_items import with_processes
from tests.support.moving_pictures import moving_clip, texture
from tests.support.shard_rows import index_row

STEPS = 6
FRAMES = pa.schema(
    [("jpegs", pa.list_(pa.binary())), ("times_s", shards.tensor(pa.float32(), STEPS))]
)
TIMES_S = np.arange(STEPS) / 2  # a clip of 3 s


def jpegs(images: list[np.ndarray]) -> list[bytes]:
    return [codecs.encode_jpeg(np.repeat(image[..., None], 3, 2), 100) for image in images]


def magnitudes(clip: list[bytes], camera: str = "keep") -> np.ndarray:
    row = mean_magnitudes((clip, camera))
    assert (row["status"], row["reason"], len(row["magnitudes"])) == ("ok", "", len(clip))
    return row["magnitudes"]


def with_object(step: int, camera_px: float, object_px: float, size: int = 40) -> np.ndarray:
    """A textured square that moves down, before a background that moves to the right."""
    image = texture(camera_px * step, 0) // 2
    top = 10 + round(object_px * step)
    left = 28 + round(camera_px * step)
    image[top : top + size, left : left + size] = texture(5, 9)[:size, :size] // 2 + 120
    return image


# How much moves


@pytest.mark.parametrize("dx, dy", [(2, 0), (-3, 0), (0, 1.5), (1.5, -2), (0.5, 0)])
def test_a_translation_has_its_length(dx, dy):
    found = magnitudes(jpegs([texture(k * dx, k * dy) for k in range(4)]))
    assert np.allclose(found, np.hypot(dx, dy), atol=0.15)
    assert found[0] == found[1]


def test_speed_is_followed_step_by_step():
    way = np.cumsum([0, 1, 1, 3, 0, 2])
    assert np.allclose(
        magnitudes(jpegs([texture(x, 0) for x in way])), [1, 1, 1, 3, 0, 2], atol=0.15
    )


def test_a_still_clip_has_no_motion_and_keeps_one_frame():
    for camera in ("keep", "subtract"):
        found = magnitudes(jpegs([texture(0, 0)] * STEPS), camera)
        assert np.allclose(found, 0, atol=1e-6)
    assert choose(np.zeros(STEPS), 1.2).tolist() == [True] + [False] * (STEPS - 1)


def test_the_camera_is_taken_off_and_the_object_stays():
    alone = magnitudes(jpegs([with_object(k, 0, 3) for k in range(4)]))
    assert alone.mean() == pytest.approx(
        3 * 40**2 / 96**2, rel=0.35
    )  # 3 px on a sixth of the image; its rim is smeared
    shaken = jpegs([with_object(k, 2, 3) for k in range(4)])
    assert magnitudes(shaken).mean() > 2
    assert np.allclose(magnitudes(shaken, "subtract"), alone, atol=0.2)
    assert np.allclose(magnitudes(moving_clip(3.0), "subtract"), 0, atol=0.1)


def test_rotation_and_zoom_are_the_cameras_too():
    wide = texture(0, 0, 160)
    views = [
        cv2.warpAffine(wide, cv2.getRotationMatrix2D((80, 80), 2.0 * k, 1 + 0.02 * k), (160, 160))[
            32:128, 32:128
        ]
        for k in range(4)
    ]
    assert magnitudes(jpegs(views)).min() > 1
    assert np.allclose(magnitudes(jpegs(views), "subtract"), 0, atol=0.15)


def test_camera_motion_of_fields_by_formula():
    y, x = np.mgrid[:72, :96].astype(np.float32)
    turn, zoom = np.radians(1.5), 1.03
    similar = np.stack(
        [
            zoom * (np.cos(turn) * x - np.sin(turn) * y) + 2 - x,
            zoom * (np.sin(turn) * x + np.cos(turn) * y) - 3 - y,
        ],
        -1,
    ).astype(np.float32)
    assert np.allclose(camera_motion(similar), similar, atol=0.02)
    moving = similar.copy()
    moving[10:40, 10:50] += 9  # a sixth of the image goes its own way
    assert np.allclose(camera_motion(moving), similar, atol=0.1)
    still = np.zeros((72, 96, 2), np.float32)
    assert np.allclose(camera_motion(still), 0)


def test_where_nothing_agrees_the_median_is_the_cameras():
    field = np.random.default_rng(0).uniform(-40, 40, (96, 96, 2)).astype(np.float32)
    camera = camera_motion(field)
    grid = np.linspace(0, 95, motion.GRID).astype(int)
    median = [np.median([field[i, j, k] for i in grid for j in grid]) for k in (0, 1)]
    assert camera.shape == field.shape and np.allclose(camera, median)


def test_the_same_clip_gives_the_same_bytes_whatever_came_before():
    clip, other = jpegs([with_object(k, 2, 3) for k in range(4)]), moving_clip(1.0)
    first = magnitudes(clip, "subtract").tobytes()
    magnitudes(other, "subtract")
    assert magnitudes(clip, "subtract").tobytes() == first


@pytest.mark.parametrize(
    "shape", [(96, 128), (8, 8), (4, 300), (300, 4), (16, 300), (2, 2), (17, 31)]
)
def test_any_shape_of_frame(shape):
    wide = texture(0, 0, 320)
    clip = jpegs([wide[: shape[0], k : k + shape[1]] for k in range(3)])
    for camera in ("keep", "subtract"):
        assert np.isfinite(magnitudes(clip, camera)).all()


# Decisions


@pytest.mark.parametrize(
    "values, threshold, steps",
    [
        ([1, 1, 1, 5], 1.2, [3]),
        ([1, 3, 1, 3], 1.2, [1, 3]),  # mean 2, limit 2.4
        ([10, 11.9, 8, 10], 1.2, [1]),  # mean 9.975, limit 11.97: none above, the largest stays
        ([10, 12.1, 8, 9.9], 1.2, [1]),  # mean 10, limit 12
        ([10, 12.1, 8, 9.9], 0.95, [0, 1, 3]),
        ([1, 1, 1, 1], 1.2, [0]),  # constant motion
        ([1, 1, 1, 1], 1.0, [0]),  # as large as the limit is not above it
        ([2, 3, 1, 3], 1.5, [1]),  # the first of equal ones
        ([0, 0, 0, 0], 1.2, [0]),
        ([4, 4, 1, 1], 1.3, [0, 1]),
    ],
)
def test_decisions_by_hand(values, threshold, steps):
    row = representative_frames.decide(
        {"status": "ok", "magnitudes": np.array(values, np.float32)}, threshold
    )
    assert row["steps"] == steps
    assert [i for i, chosen in enumerate(row["chosen"]) if chosen] == steps and len(
        row["chosen"]
    ) == 4


def test_tables_and_single_clips_are_decided_alike():
    many = np.random.default_rng(0).gamma(4, size=(200, 18)).astype(np.float32)
    for threshold in (1.1, 1.2, 3.0):
        assert np.array_equal(choose(many, threshold), [choose(row, threshold) for row in many])
        by_hand = [
            [value > threshold * sum(row) / len(row) for value in row]
            for row in many.astype(float).tolist()
        ]
        assert np.array_equal(above(many, threshold), by_hand)
        assert choose(many, threshold).any(1).all()
    assert not above(many, 3.0).any(1).all()  # some needed their largest


def test_a_failed_row_stays_as_it_is():
    assert representative_frames.decide({"status": "timeout", "reason": "slow"}, 1.2) == {
        "status": "timeout",
        "reason": "slow",
    }


# Events


def test_the_frame_on_screen_at_an_event():
    events_s = np.array([-0.1, 0.0, 0.49, 0.5, 2.6, 2.99, 3.0, 7.0])
    assert steps_at(events_s, TIMES_S).tolist() == [0, 0, 1, 5, 5]


def brute_force(chosen: list[list[bool]], events: list[list[int]]) -> tuple[float, float]:
    """Recall and precision, one event and one frame at a time."""
    recalled = []
    near = []
    for mask, steps in zip(chosen, events, strict=True):
        if not steps:
            continue
        for event in steps:
            around = [step for step in (event - 1, event, event + 1) if 0 <= step < len(mask)]
            recalled.append(any(mask[step] for step in around))
        for step, is_chosen in enumerate(mask):
            if is_chosen:
                near.append(min(abs(step - event) for event in steps) <= 1)
    return sum(recalled) / len(recalled), sum(near) / len(near)


def random_case(clips: int = 40, steps: int = 18) -> tuple[np.ndarray, list[np.ndarray]]:
    """Chosen frames [clips, steps] and events; every sixth clip has no event."""
    rng = np.random.default_rng(3)
    chosen = rng.random((clips, steps)) < 0.25
    chosen[np.arange(clips), rng.integers(steps, size=clips)] = True
    events = [rng.integers(steps, size=number % 6) for number in range(clips)]
    return chosen, events


def test_recall_and_precision_against_brute_force():
    chosen, events = random_case()
    figures = event_agreement(chosen, events)
    recall, precision = brute_force(chosen.tolist(), [steps.tolist() for steps in events])
    assert figures["event_recall"] == pytest.approx(recall)
    assert figures["chosen_near_event"] == pytest.approx(precision)
    assert 0.1 < recall < 0.9
    assert 0.1 < precision < 0.9


def test_random_frames_against_every_draw():
    chosen = np.array([[True, True, False, False, False, False]])
    figures = event_agreement(chosen, [np.array([0, 3, 3])])
    every = []
    for pair in combinations(range(6), 2):
        draw = [step in pair for step in range(6)]
        every.append(brute_force([draw], [[0, 3, 3]]))
    recall, precision = np.mean(every, axis=0)
    assert figures["event_recall_random"] == pytest.approx(recall)
    assert figures["chosen_near_event_random"] == pytest.approx(precision)


def test_random_frames_against_simulation():
    chosen, events = random_case()
    figures = event_agreement(chosen, events)
    rng = np.random.default_rng(0)
    draws = [event_agreement(rng.permuted(chosen, axis=1), events) for _ in range(400)]
    for name in ("event_recall", "chosen_near_event"):
        mean = np.mean([draw[name] for draw in draws])
        assert figures[f"{name}_random"] == pytest.approx(mean, abs=0.01)


def test_without_events_there_is_no_recall():
    assert event_agreement(np.ones((2, 5), bool), [np.array([]), np.array([])]) == {}


# The stage


@pytest.fixture
def stage_input(workspace, in_process):
    """Clips of all splits: x of constant speed, y with two jumps."""
    workspace.set(representative_frames={"threshold": 1.2, "camera": "keep"})
    jumping = jpegs([texture(x, 0) for x in (0, 1, 2, 6, 7, 12)])
    rows = [
        {**index_row(f"{action}/{name}-{split}_1", split), "jpegs": clip, "times_s": TIMES_S}
        for action in ("a", "b")
        for split in ("training", "validation", "test")
        for name, clip in (("x", moving_clip(2)), ("y", jumping))
    ]
    rows.append({**index_row("unlabelled/z_1", "unlabelled"), "jpegs": jumping, "times_s": TIMES_S})
    rows.sort(key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))
    index = sorted(
        [*rows, index_row("a/w_1", "test", "unreadable")],
        key=lambda row: (row["split"], row["action"] or "", row["clip_id"]),
    )
    shards.write(Path("data/frames"), FRAMES, rows, index, "v")
    write_truth({row["clip_id"]: [1.6, 2.7] if "/y" in row["clip_id"] else None for row in rows})
    workspace.rows = rows
    return workspace


def write_truth(events_s: dict[str, list[float] | None]) -> None:
    known = [
        dict.fromkeys(TRUTH_SCHEMA.names) | {"clip_id": name, "event_times_s": found}
        for name, found in events_s.items()
    ]
    shards.write_table(pa.Table.from_pylist(known, schema=TRUTH_SCHEMA), Path("data/truth.parquet"))


def execute(workers: int = 1) -> stage_run.StageRun:
    stage = stage_run.StageRun("representative_frames", "", workers)
    representative_frames.main(stage)
    return stage


def written() -> dict:
    columns = shards.read_columns(
        Path("data/representative_frames"), ["magnitudes", "chosen", "steps"]
    )
    return {
        name: dict(zip(("magnitudes", "chosen", "steps"), row, strict=True))
        for name, *row in zip(*columns.values(), strict=True)
    }


def metrics() -> dict:
    return json.loads(Path("metrics/representative_frames.json").read_text())


def keys() -> dict[str, str]:
    return {
        row["clip_id"]: row["item_key"]
        for row in shards.ok_rows(Path("data/representative_frames"))
    }


def test_stage_writes_a_row_per_clip_with_frames(stage_input):
    stage = execute()
    found = written()
    assert list(found) == [row["clip_id"] for row in stage_input.rows]
    assert (stage.log["computed"], stage.log["reused"]) == (13, 0)
    assert metrics()["clips"] == {"in": 13, "ok": 13, "refused": {}}
    for name, row in found.items():
        assert row["magnitudes"].dtype == np.float32 and row["magnitudes"].shape == (STEPS,)
        assert row["chosen"] == [t in row["steps"] for t in range(STEPS)]
        if "/x" in name:
            assert row["magnitudes"] == pytest.approx(2, abs=0.15) and len(row["steps"]) == 1
        else:
            assert row["magnitudes"] == pytest.approx([1, 1, 1, 4, 1, 5], abs=0.15) and row[
                "steps"
            ] == [3, 5]
    assert Path("metrics/figures/representative_frames.png").stat().st_size > 10_000


def test_table_leaves_test_clips_out_and_knows_events(stage_input):
    stage_input.set(representative_frames={"threshold": 1.5})
    execute()
    table = metrics()["thresholds"]
    assert list(table) == ["1.1", "1.2", "1.3", "1.5"]
    # of the 9 clips that count, 4 move at constant speed (one frame, none above) and 5 jump in
    # steps 3 and 5, where 1.6 s and 2.7 s are
    assert table["1.2"] == {
        "clips": 9,
        "sources": 5,
        "frames_per_clip": pytest.approx((4 * 1 + 5 * 2) / 9),
        "clips_without": pytest.approx(4 / 9),
        "event_recall": 1.0,
        "event_recall_random": pytest.approx((2 - 3 / 15 - 6 / 15) / 2),
        "chosen_near_event": 1.0,
        "chosen_near_event_random": pytest.approx(4 / 6),
        "event_recall_exact": 1.0,
        "chosen_near_event_exact": 1.0,
        "event_recall_random_exact": pytest.approx(1 / 3, abs=1e-6),
        "chosen_near_event_random_exact": pytest.approx(1 / 3, abs=1e-6),
    }
    write_truth({row["clip_id"]: [0.1, 0.2] for row in stage_input.rows if row["split"] == "test"})
    execute()
    assert metrics()["thresholds"]["1.2"].keys() == {
        "clips",
        "sources",
        "frames_per_clip",
        "clips_without",
    }
    write_truth({})
    execute()
    assert metrics()["thresholds"]["1.2"].keys() == {
        "clips",
        "sources",
        "frames_per_clip",
        "clips_without",
    }


def test_truth_changes_metrics_alone(stage_input):
    execute()
    before = {
        path: path.read_bytes() for path in Path("data/representative_frames").rglob("*.parquet")
    }
    write_truth({})
    execute()
    assert {
        path: path.read_bytes() for path in Path("data/representative_frames").rglob("*.parquet")
    } == before and len(before) > 5


@pytest.mark.slow
def test_another_threshold_computes_no_flow_but_changes_the_keys(stage_input):
    execute()
    first, steps = keys(), written()["a/y-test_1"]["steps"]
    stage_input.set(representative_frames={"threshold": 0.3})
    stage = execute()
    assert stage.log["computed"] == 0 and stage.log["reused"] == 13
    second = keys()
    assert first.keys() == second.keys() and not set(first.values()) & set(second.values())
    assert steps == [3, 5] and written()["a/y-test_1"]["steps"] != steps
    stage_input.set(representative_frames={"threshold": 1.2})
    assert execute().log["computed"] == 0 and keys() == first
    stage_input.set(representative_frames={"camera": "subtract"})
    assert execute().log["computed"] > 0 and not set(first.values()) & set(keys().values())


def test_keys_of_stages_without_such_a_parameter_are_as_ever(stage_input):
    from audio_from_video.storage.clip_items import ClipItems

    clips_in = shards.inputs(Path("data/frames"))
    with ClipItems("some", "version", pa.schema([("x", pa.int32())])) as items:
        items.fill(
            stage_run.StageRun("some", "", 1),
            clips_in,
            ((clip["clip_id"], i) for i, clip in enumerate(clips_in)),
            lambda tasks: ({"x": x, "status": "ok", "reason": ""} for x in tasks),
        )
        index = items.pack(Path("data/some"), clips_in)
    assert [row["item_key"] for row in index] == [
        digest(clip["input_key"], "version") for clip in clips_in
    ]


def test_one_and_two_workers_write_the_same_bytes(stage_input, monkeypatch):
    monkeypatch.setattr(parallel, "map_items", with_processes)
    stage_input.set(representative_frames={"camera": "subtract"})
    outputs = []
    for workers in (1, 2):
        monkeypatch.setenv("ITEM_STORE", str(stage_input.folder / f"items{workers}"))
        assert execute(workers).log["computed"] > 0
        found = [
            *Path("data/representative_frames").rglob("*.parquet"),
            *Path("metrics").rglob("*.*"),
        ]
        outputs.append({path: path.read_bytes() for path in found if path.is_file()})
    assert (
        outputs[0] == outputs[1] and len(outputs[0]) == 10
    )  # 7 shards, the index, the figure and the table


def test_figure_shows_validation_clips_else_training_clips(stage_input, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        motion_figure,
        "write_motion_figure",
        lambda path, clips, *_: drawn.append([clip["clip_id"] for clip in clips]),
    )
    execute()
    rows = [row for row in stage_input.rows if row["split"] != "validation"]
    shards.write(Path("data/frames"), FRAMES, rows, rows, "v")
    execute()
    assert drawn == [["a/x-validation_1", "b/x-validation_1"], ["a/x-training_1", "b/x-training_1"]]


def test_failed_clips_are_recorded(stage_input, monkeypatch):
    slow = Failure("timeout", "slow")
    monkeypatch.setattr(parallel, "map_items", lambda function, tasks, *_: (slow for _ in tasks))
    execute()
    assert metrics() == {"clips": {"in": 13, "ok": 0, "refused": {"timeout": 13}}, "thresholds": {}}
    assert Path("metrics/figures/representative_frames.png").is_file()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"threshold": -1.0},
            "representative_frames.threshold = -1.0: input should be greater than 0",
        ),
        (
            {"threshold": "auto"},
            "representative_frames.threshold = 'auto': input should be a valid number",
        ),
        (
            {"camera": "remove"},
            "representative_frames.camera = 'remove': input should be 'keep' or 'subtract'",
        ),
        (
            {"camra": "keep"},
            "representative_frames.camra is not a parameter; did you mean 'camera'",
        ),
    ],
)
def test_mistakes_are_sentences(stage_input, change, sentence):
    stage_input.set(representative_frames=change)
    with pytest.raises(UserError) as caught:
        execute()
    assert sentence in str(caught.value)


# By CODE_VERSION: what `mean_magnitudes` gives for known motions, rounded so that machines agree.
GOLDEN = {1: "65654c20e27b26a57f6ef93cb4643efc"}


def test_output_is_that_of_code_version():
    shaken = jpegs([with_object(k, 2, 3) for k in range(4)])
    facts = [
        float(np.rint(magnitudes(clip, camera).mean() * 4))
        for clip in (moving_clip(2.0), moving_clip(-3.25), shaken)
        for camera in ("keep", "subtract")
    ]
    assert digest(facts) == GOLDEN[representative_frames.CODE_VERSION], (
        "the output changed: raise CODE_VERSION and note the new digest here"
    )
