"""Finding, checking and splitting clips: every file has a row, no source stands on two sides."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audio_from_video.clipset import discovery
from audio_from_video.clipset.discovery import read_list
from audio_from_video.clipset.splits import assign_splits
from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import clips
from stages.clips import ClipsParams, choose_actions, limit_per_action
from tests.support.media_files import ffmpeg, sine, write_video
from tests.support.tiny_backbones import write_vit

PATTERN = r"^(.+)_\d+$"


def find(p: ClipsParams) -> list[dict]:
    return discovery.find_clips(
        p.root, {"training": p.training_list, "validation": p.validation_list}
    )


def parameters(root: Path, **changes) -> ClipsParams:
    return ClipsParams(
        **{
            "root": str(root),
            "actions": "all",
            "max_per_action": 0,
            "seed": 0,
            "validation_fraction": 0.25,
            "source_pattern": PATTERN,
            "training_list": "",
            "validation_list": "",
            "test_list": "",
            "clip_list": "",
            "min_duration_s": 0.5,
            "max_duration_s": 60.0,
            "max_pixels": 36_000_000,
            "links": "inside",
            "max_failed_fraction": 0.0,
            "fit_on": "",
            **changes,
        }
    )


@pytest.fixture
def root(workspace):
    """Folders of names only; files hold their own path, so that contents differ."""
    root = workspace.folder / "media"
    names = [
        f"training/{action}/{source}_{i}.mp4"
        for action in ("playing+music", "barking")
        for source in ("yt-a", "-b", "c d", "e%")
        for i in (1, 2)
    ]
    names = [name.replace("/yt-a", f"/yt-a{name[9]}") for name in names] + [
        f"validation/{a}/t{a}_1.mp4" for a in ("barking", "playing+music")
    ]
    names += ["unlabelled/u_1.mp4", "unlabelled/deep/v_1.mp4"]
    names = [
        name.replace("barking/-b", "barking/-bb")
        .replace("barking/c", "barking/cc")
        .replace("barking/e", "barking/ee")
        for name in names
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def described(root: Path, p: ClipsParams, **facts) -> list[dict]:
    """What `find` found, as if every file were a good one, then split."""
    found = find(p)
    for clip in found:
        clip |= {"status": "ok", "reason": "", "content_hash": clip["path"], **facts}
    assign_splits(found, p)
    return found


def sides(rows: list[dict], key: str) -> dict[str, set]:
    return {
        name: {row[key] for row in rows if row["split"] == name and row["status"] == "ok"}
        for name in ("training", "validation", "test", "unlabelled")
    }


def test_names_of_actions_sources_and_splits(root):
    rows = {row["clip_id"]: row for row in described(root, parameters(root))}
    assert len(rows) == 20
    music = rows["playing+music/-b_1"]
    assert (music["action"], music["source_id"], music["path"]) == (
        "playing+music",
        "-b",
        "training/playing+music/-b_1.mp4",
    )
    assert rows["playing+music/c d_2"]["source_id"] == "c d"
    loose = rows["unlabelled/v_1"]
    assert (loose["action"], loose["split"], loose["path"]) == (
        None,
        "unlabelled",
        "unlabelled/deep/v_1.mp4",
    )
    assert rows["barking/tbarking_1"]["split"] == "test"


def test_one_source_stands_on_one_side_and_each_action_has_validation_clips(root):
    rows = described(root, parameters(root))
    by_source = sides(rows, "source_id")
    assert (
        not by_source["training"] & by_source["validation"]
        and not by_source["training"] & by_source["test"]
    )
    for action in ("barking", "playing+music"):
        mine = [row for row in rows if row["action"] == action]
        assert {
            len(sources)
            for name, sources in sides(mine, "source_id").items()
            if name == "validation"
        } == {1}  # a quarter of four
        assert len(sides(mine, "source_id")["training"]) == 3
    assert rows != described(root, parameters(root, seed=4)) or rows != described(
        root, parameters(root, seed=5)
    )
    assert rows == described(root, parameters(root))


def test_growth_keeps_most_of_the_split(root):
    before = {
        row["clip_id"]: row["split"]
        for row in described(root, parameters(root, validation_fraction=0.5))
    }
    (root / "training/barking/new_1.mp4").write_text("new")
    after = {
        row["clip_id"]: row["split"]
        for row in described(root, parameters(root, validation_fraction=0.5))
    }
    assert (
        sum(before[name] != after[name] for name in before) <= 2
    )  # at most one source of two clips changes


def test_a_source_shared_with_test_leaves_training(root):
    shutil.copy(root / "training/barking/-bb_1.mp4", root / "validation/barking/-bb_3.mp4")
    rows = {row["path"]: row for row in described(root, parameters(root))}
    assert rows["validation/barking/-bb_3.mp4"]["status"] == "ok"
    for i in (1, 2):
        row = rows[f"training/barking/-bb_{i}.mp4"]
        assert (row["status"], row["reason"]) == (
            "source_in_other_split",
            "source -bb also stands in test or validation",
        )


def test_same_bytes_and_same_ids_are_refused(root):
    p = parameters(root)
    found = find(p)
    for clip in found:
        clip |= {
            "status": "ok",
            "reason": "",
            "content_hash": "same" if clip["stem"] in ("cc d_1", "tbarking_1") else clip["path"],
        }
    assign_splits(found, p)
    rows = {row["clip_id"]: row for row in found}
    assert (
        rows["barking/cc d_1"]["status"] == "duplicate_content"
        and rows["barking/tbarking_1"]["status"] == "ok"
    )
    shutil.copy(root / "training/barking/ee%_1.mp4", root / "training/barking/ee%_1.avi")
    assert [row["status"] for row in described(root, p) if row["clip_id"] == "barking/ee%_1"] == [
        "duplicate_id",
        "duplicate_id",
    ]


def test_a_test_list_names_the_test_clips_and_takes_their_sources_out_of_training(root):
    (root / "avmit.csv").write_text(
        "filename,rating\nbarking/tbarking_1.mp4,5\nplaying+music/-b_1.mp4,4\n"
    )
    rows = {row["path"]: row for row in described(root, parameters(root, test_list="avmit.csv"))}
    assert rows["training/playing+music/-b_1.mp4"]["split"] == "test"
    assert rows["training/playing+music/-b_2.mp4"]["status"] == "source_in_other_split"
    assert rows["validation/playing+music/tplaying+music_1.mp4"]["status"] == "not_in_test_list"


def test_lists_in_moments_in_times_form_replace_the_scan(root):
    (root / "trainingSet.csv").write_text(
        "barking/-bb_1.mp4,barking,3,1\n\nplaying+music/c d_1.mp4,playing+music,3,0\n"
        "barking/gone_1.mp4,barking,1,1\n"
    )
    found = find(parameters(root, training_list="trainingSet.csv"))
    assert [clip["path"] for clip in found if clip["folder"] == "training"] == [
        "training/barking/-bb_1.mp4",
        "training/barking/gone_1.mp4",
        "training/playing+music/c d_1.mp4",
    ]


@pytest.mark.parametrize(
    "line", ["../secret/x.mp4,a,1,1", "/etc/x.mp4,a,1,1", "a/../../x.mp4,a,1,1"]
)
def test_lists_cannot_leave_the_root(tmp_path, line):
    (tmp_path / "l.csv").write_text(line + "\n")
    with pytest.raises(UserError, match="leaves the root"):
        read_list(tmp_path / "l.csv")


def test_actions_are_all_or_named_or_drawn(root):
    found = find(parameters(root))
    assert choose_actions(found, parameters(root)) == {"barking", "playing+music"}
    assert choose_actions(found, parameters(root, actions=["barking"])) == {"barking"}
    drawn = [choose_actions(found, parameters(root, actions=1, seed=seed)) for seed in range(8)]
    assert {len(one) for one in drawn} == {1} and len(set(map(frozenset, drawn))) == 2
    assert drawn[3] == choose_actions(found, parameters(root, actions=1, seed=3))
    with pytest.raises(
        UserError, match="clips.actions names bark, which .* does not have; it has barking, playing"
    ):
        choose_actions(found, parameters(root, actions=["bark"]))
    with pytest.raises(UserError, match="clips.actions = 3: .* has 2 actions"):
        choose_actions(found, parameters(root, actions=3))


def test_a_limit_keeps_its_draw_when_the_folder_grows(root):
    p = parameters(root, max_per_action=3)
    drawn = limit_per_action(find(p), p)
    assert {(clip["folder"], clip["action"]): 0 for clip in drawn}.keys() == {
        (c["folder"], c["action"]) for c in find(p)
    }
    assert (
        max(
            sum(c["folder"] == "training" and c["action"] == a for c in drawn)
            for a in ("barking", "playing+music")
        )
        == 3
    )
    (root / "training/barking/zz_1.mp4").write_text("zz")
    kept = {clip["path"] for clip in limit_per_action(find(p), p)}
    assert len({clip["path"] for clip in drawn} - kept) <= 1


def test_roots_that_cannot_serve_are_sentences(tmp_path):
    with pytest.raises(
        UserError,
        match="clips.root = .*nowhere' is not a folder; give a folder with training/<action>",
    ):
        find(parameters(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no clip below training/<action>/"):
        find(parameters(tmp_path))
    (tmp_path / "training").mkdir()
    (tmp_path / "training/loose.mp4").write_text("x")
    with pytest.raises(
        UserError, match="loose.mp4: clips belong into training/<action>/, one folder deep"
    ):
        find(parameters(tmp_path))
    with pytest.raises(UserError, match="the clip list .*l.csv does not exist"):
        find(parameters(tmp_path, training_list="l.csv"))


def test_a_name_that_is_no_text_is_a_sentence(root):
    (root / os.fsdecode(b"training/barking/\xff\xfe_1.mp4")).write_text("x")
    with pytest.raises(UserError, match="name is not valid UTF-8"):
        find(parameters(root))
    (root / "latin.csv").write_bytes("barking/caf\u00e9_1.mp4,barking\n".encode("latin-1"))
    with pytest.raises(UserError, match="name is not valid UTF-8"):
        find(parameters(root, training_list="latin.csv"))


def test_hidden_files_are_no_clips(root):
    (root / "training/barking/.DS_Store").write_text("x")
    (root / "training/barking/._a_1.mp4").write_text("x")
    assert len(find(parameters(root))) == 20


@pytest.fixture
def real(workspace):
    """Real files, one of each kind of fault among them."""
    root = workspace.folder / "real"
    for name in ("training/clapping", "training/knocking", "validation/clapping", "unlabelled"):
        (root / name).mkdir(parents=True)
    write_video(root / "training/knocking/k_1.mp4", 80, "24")
    for i, source in enumerate("abcd"):
        write_video(
            root / f"training/clapping/{source}_1.mp4",
            72,
            "24",
            "-c:a",
            "aac",
            sound=sine(300 + i, 3, -9),
        )
    write_video(root / "validation/clapping/t_1.mp4", 75, "25")
    write_video(root / "unlabelled/u_1.mp4", 90, "30")
    write_video(root / "training/clapping/short_1.mp4", 6, "24")
    (root / "training/clapping/zero_1.mp4").write_bytes(b"")
    (root / "training/clapping/text_1.mp4").write_text("no video")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", root / "training/clapping/sound_1.mp4")
    (root / "training.csv").write_text(
        "".join(
            f"clapping/{p.name},clapping\n" for p in sorted((root / "training/clapping").iterdir())
        )
        + "clapping/gone_1.mp4,clapping\nknocking/k_1.mp4,knocking\n"
    )
    workspace.set(
        clips={"root": "real", "training_list": "training.csv", "max_failed_fraction": 0.5}
    )
    return workspace


def table() -> dict[str, dict]:
    return {
        row["path"].split("/")[-1]: row for row in pq.read_table("data/clips.parquet").to_pylist()
    }


def test_every_file_has_a_row_with_facts_or_a_reason(real):
    clips.main(stage_run.StageRun("clips", None, 2))
    rows = table()
    assert {name: row["status"] for name, row in rows.items() if row["status"] != "ok"} == {
        "short_1.mp4": "too_short",
        "zero_1.mp4": "unreadable",
        "text_1.mp4": "unreadable",
        "sound_1.mp4": "no_video",
        "gone_1.mp4": "missing",
    }
    assert all((row["reason"] == "") == (row["status"] == "ok") for row in rows.values())
    good = rows["a_1.mp4"]
    assert (
        good["duration_s"],
        good["fps"],
        good["width_px"],
        good["height_px"],
        good["has_audio"],
    ) == (pytest.approx(3), 24, 64, 48, True)
    assert not rows["t_1.mp4"]["has_audio"] and rows["u_1.mp4"]["fps"] == 30
    assert len(good["content_hash"]) == 32 and rows["gone_1.mp4"]["content_hash"] is None
    metrics = __import__("json").loads(Path("metrics/clips.json").read_text())
    assert metrics["clips"] == {
        "in": 12,
        "ok": 7,
        "refused": {"missing": 1, "no_video": 1, "too_short": 1, "unreadable": 2},
    }
    assert sum(metrics["split"].values()) == 7 and metrics["with_audio_track"] == 4


def test_only_changed_files_are_opened_again_and_bytes_stay_the_same(real):
    clips.main(stage_run.StageRun("clips", None, 1))
    before = Path("data/clips.parquet").read_bytes()
    clips.main(stage := stage_run.StageRun("clips", None, 2))
    assert stage.log["computed"] == 0 and Path("data/clips.parquet").read_bytes() == before
    write_video(real.folder / "real/unlabelled/u_1.mp4", 60, "30")
    clips.main(stage := stage_run.StageRun("clips", None, 1))
    assert stage.log["computed"] == 1 and table()["u_1.mp4"]["duration_s"] == pytest.approx(2)


def test_truth_is_passed_on_or_empty(real):
    clips.main(stage_run.StageRun("clips", None, 1))
    empty = pq.read_table("data/truth.parquet")
    assert len(empty) == 0 and empty.schema.names == TRUTH_SCHEMA.names
    truth = [{**dict.fromkeys(TRUTH_SCHEMA.names), "clip_id": "clapping/a_1", "audible": True}]
    shards.write_table(
        pa.Table.from_pylist(truth, schema=TRUTH_SCHEMA), real.folder / "real/truth.parquet"
    )
    clips.main(stage_run.StageRun("clips", None, 1))
    assert pq.read_table("data/truth.parquet").to_pylist() == truth


def test_an_action_with_one_clip_has_no_validation_clip(workspace):
    root = workspace.folder / "one"
    (root / "training/waving").mkdir(parents=True)
    (root / "training/waving/a_1.mp4").write_text("a")
    rows = described(root, parameters(root))
    assert [(row["split"], row["status"]) for row in rows] == [("training", "ok")]


def test_an_action_without_training_clip_is_refused_at_test(root):
    shutil.rmtree(root / "training/barking")
    rows = {row["clip_id"]: row for row in described(root, parameters(root))}
    assert (
        rows["barking/tbarking_1"]["status"],
        rows["playing+music/tplaying+music_1"]["status"],
    ) == ("action_not_trained", "ok")
    assert (
        rows["barking/tbarking_1"]["reason"]
        == "no training clip of this action is left, so no classifier could name it"
    )


# What a data set lacks is told before other stages run


def rows_of(**changes) -> list[dict]:
    """Clips of two actions in all splits, with sound, changed: split=(name, value, ...)."""
    rows = []
    for action in ("clapping", "knocking"):
        for split in ("training", "validation", "test"):
            rows.append({"action": action, "split": split, "status": "ok", "has_audio": True})
    for row in rows:
        row.update({key: value for key, value in changes.items() if key in row})
    return rows


def without(split: str) -> list[dict]:
    return [row for row in rows_of() if row["split"] != split]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (rows_of(action="clapping"), "at least two actions; x has: clapping"),
        (rows_of(status="unreadable"), "at least two actions; x has: none"),
        (without("test"), "no test clip is left in x: put clips into validation/<action>/"),
        (without("validation"), "needs training clips of at least two sources"),
        (rows_of(has_audio=False), "none of the 2 training and unlabelled clips in x has an audio"),
    ],
)
def test_what_cannot_make_an_experiment_is_told_at_once(rows, sentence):
    with pytest.raises(UserError, match=sentence):
        clips.require_splits(rows, parameters(Path("x")))


def test_what_makes_an_experiment_passes():
    clips.require_splits(rows_of(), parameters(Path("x")))


# What spoils figures is told


def test_models_of_the_rendered_data_set_are_told_of_at_another_root(workspace):
    models = {
        "video_features.model": "models/tiny/vit",
        "audio_features.model": str(workspace.folder / "models/tiny/ast"),
        "captions.model": "Salesforce/blip-image-captioning-base",
    }
    assert clips.unfit_models("data/sample", models) == []
    assert clips.unfit_models(str(workspace.folder / "data/sample"), models) == []
    (sentence,) = clips.unfit_models("/data/clips", models)
    assert sentence.startswith("video_features.model, audio_features.model: these models know the")
    assert "'/data/clips'" in sentence and "params/real.yaml" in sentence
    assert clips.unfit_models("/data/clips", {"captions.model": "Salesforce/blip"}) == []


def test_frames_smaller_than_the_model_sees_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = str(write_vit(tmp_path / "vit"))  # sees 32 px
    assert clips.small_frames(32, model) == []
    (sentence,) = clips.small_frames(31, model)
    assert sentence.startswith("frames.size_px = 31: video_features.model = ")
    assert "sees 32 px" in sentence
    assert clips.small_frames(31, "nobody/has-this-model") == []  # said when it is here


def test_look_alike_pairs_that_no_test_clip_shows_are_told():
    rows = rows_of()
    assert clips.ignored_pairs([["clapping", "knocking"]], rows) == []
    pairs = [["clapping", "knocking"], ["clapping", "sawing"]]
    (sentence,) = clips.ignored_pairs(pairs, rows)
    assert sentence.startswith("report.look_alike_pairs: clapping/sawing are left out")


def test_warnings_are_lines_on_stderr_and_counts_in_the_metrics(real, capsys):
    clips.main(stage_run.StageRun("clips", None, 2))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clips: ")]
    assert (
        len([line for line in told if "these models know the rendered data set alone" in line]) == 1
    )
    assert (
        len([line for line in told if "1 of 2 actions have clips of one source only" in line]) == 1
    )
    assert (
        len([line for line in told if "2 of 2 actions have fewer than 10 training clips" in line])
        == 1
    )
    assert (
        len([line for line in told if "look_alike_pairs: knocking/hammering, sawing" in line]) == 1
    )
    figures = json.loads(Path("metrics/clips.json").read_text())
    assert figures["actions_short_of"] == {"sources": 1, "validation_clips": 0, "training_clips": 2}


# Lists and names


def test_a_list_may_begin_with_a_byte_order_mark_and_name_a_clip_twice(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("\ufeffclapping/a_1.mp4,clapping\nclapping/a_1.mp4,clapping\n".encode())
    assert discovery.read_list(path) == ["clapping/a_1.mp4"]


def test_names_in_the_test_list_that_match_nothing_are_counted(root, capsys):
    (root / "test.csv").write_text("clapping/nowhere_1.mp4\nclapping/never_1.mp4\n")
    described(root, parameters(root, test_list="test.csv"))
    told = capsys.readouterr().err
    assert "2 of the 2 names in test.csv match no clip, such as clapping/never_1.mp4" in told


def test_two_spellings_of_one_letter_are_one_action(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for action, name in ((composed, "a_1"), (decomposed, "b_1")):
        (tmp_path / "training" / action).mkdir(parents=True)
        (tmp_path / "training" / action / f"{name}.mp4").write_text("x")
    clips_found = discovery.find_clips(str(tmp_path), {})
    assert {clip["action"] for clip in clips_found} == {composed}

    (tmp_path / "list.csv").write_text(f"{composed}/b_1.mp4,x\n")
    listed = discovery.find_clips(str(tmp_path), {"training": "list.csv"})
    assert [(tmp_path / clip["path"]).is_file() for clip in listed] == [True]


def test_what_lies_beside_clips_is_no_failed_clip(tmp_path, capsys):
    folder = tmp_path / "training/clapping"
    folder.mkdir(parents=True)
    for name in ("a_1.mp4", "b_1.mp4.part", "a_1.info.json", "Thumbs.db", "cover.jpg", "notes.txt"):
        (folder / name).write_text("x")
    found = discovery.find_clips(str(tmp_path), {})
    assert [clip["stem"] for clip in found] == ["a_1"]
    assert "5 files below" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["./clapping/a_1.mp4", "clapping//a_1.mp4", "clapping/a_1.mp4"])
def test_spellings_of_one_path_are_one_clip(tmp_path, name):
    (tmp_path / "training/clapping").mkdir(parents=True)
    (tmp_path / "training/clapping/a_1.mp4").write_text("x")
    (tmp_path / "list.csv").write_text(f"{name},x\nclapping/a_1.mp4,x\n")
    found = discovery.find_clips(str(tmp_path), {"training": "list.csv"})
    assert [clip["path"] for clip in found] == ["training/clapping/a_1.mp4"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('a/x.mp4,"never closed\n' + "b/y.mp4\n" * 20_000, "is no CSV file"),
        ("a/x\0.mp4,a\n", "is no CSV file|holds zero bytes"),
    ],
)
def test_a_damaged_list_is_a_sentence(tmp_path, content, sentence):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=sentence):
        discovery.read_list(tmp_path / "list.csv")


def test_a_link_to_a_folder_of_unlabelled_clips_is_a_sentence(tmp_path):
    for folder in ("training/clapping", "elsewhere", "unlabelled"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "training/clapping/a_1.mp4").write_text("x")
    (tmp_path / "unlabelled/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link to a folder is not followed"):
        discovery.find_clips(str(tmp_path), {})


def test_a_clip_outside_the_test_list_takes_no_place_of_one_within(root):
    """Two names of the same bytes: the one that is named stays."""
    for name in ("x_1", "y_1"):
        (root / f"validation/barking/{name}.mp4").write_text("the same")
    (root / "test.csv").write_text("barking/y_1.mp4\n")
    rows = described(root, parameters(root, test_list="test.csv"))
    status = {row["clip_id"]: row["status"] for row in rows}
    assert status["barking/x_1"] == "not_in_test_list"
    assert status["barking/y_1"] == "ok"


def test_pictures_longer_than_a_jpeg_are_refused():
    clip = {"status": "ok", "reason": "", "duration_s": 3.0, "width_px": 70_000, "height_px": 16}
    clips._limit_size(clip, parameters(Path("x")))
    assert clip["status"] == "too_large"
