"""Importers of published annotations, on rows made up in each format."""

import importlib
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from audio_from_video.clipset import annotations, lists
from audio_from_video.clipset.lists import ListedClip
from audio_from_video.runtime.errors import UserError
from tests.support.media_files import ffmpeg, sine, write_video


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Write annotation files and run an importer on them; return the clips of its list."""
    monkeypatch.chdir(tmp_path)

    def run(importer: str, files: dict[str, str], *options: str) -> list[ListedClip]:
        for name, text in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        module = importlib.import_module(f"tools.import_{importer}")
        monkeypatch.setattr(sys, "argv", [importer, *options, "--out", "out/list.csv"])
        module.main()
        return lists.read(Path("out/list.csv"))[0]

    return run


VGGSOUND = (
    '---g-f_I2yQ,1,"people marching, walking",test\n--0PQM4-hqg,30,waterfall burbling,train\n'
)


def test_vggsound(convert, capsys):
    rows = {"vggsound.csv": VGGSOUND + "no,annotation\n"}
    found = convert("vggsound", {"vggsound.csv": VGGSOUND}, "vggsound.csv")
    assert found == [
        ListedClip(
            "---g-f_I2yQ_000001.mp4", "people marching, walking", split="test",
            source_id="---g-f_I2yQ",
        ),
        ListedClip(
            "--0PQM4-hqg_000030.mp4", "waterfall burbling", split="training",
            source_id="--0PQM4-hqg",
        ),
    ]  # fmt: skip
    assert "out/list.csv: 2 clips of 2 actions" in capsys.readouterr().out
    whole = convert("vggsound", {}, "vggsound.csv", "--pattern", "videos/{id}.mkv")
    assert (whole[1].path, whole[1].start_s, whole[1].end_s) == ("videos/--0PQM4-hqg.mkv", 30, 40)
    with pytest.raises(SystemExit, match="line 3: it has fewer columns"):
        convert("vggsound", rows, "vggsound.csv")


KINETICS = """label,youtube_id,time_start,time_end,split
abseiling,-3B32lodo2M,59,69,train
playing piano,_dbcJuKJQNs,40,50,val
playing piano,abc,0,10,train
playing piano,def,7,17,test
"""


def test_kinetics_sounds(convert, capsys):
    files = {"kinetics.csv": KINETICS, "sounds.txt": "playing piano\n"}
    found = convert("kinetics", files, "kinetics.csv", "--classes", "sounds.txt")
    assert [(clip.path, clip.split, clip.source_id) for clip in found] == [
        ("playing piano/_dbcJuKJQNs_000040_000050.mp4", "test", "_dbcJuKJQNs"),
        ("playing piano/abc_000000_000010.mp4", "training", "abc"),
    ]
    assert "1 rows are of the published test set" in capsys.readouterr().err
    three = convert("kinetics", {}, "kinetics.csv", "--test", "test", "--pattern", "{id}.mp4")
    assert [clip.split for clip in three] == ["training", "validation", "training", "test"]
    assert three[3].part == "@7-17"
    with pytest.raises(SystemExit, match="names humming, which no row has"):
        convert("kinetics", {"sounds.txt": "humming"}, "kinetics.csv", "--classes", "sounds.txt")


def test_ave(convert, capsys):
    files = {
        "AVE/trainSet.txt": "Church bell&RUhOCu3LNXM&good&0&10\nFrying (food)&abc&good&2&5\n",
        "AVE/valSet.txt": "Baby cry, infant cry&abc&good&6&8\nBus&none&good&0&0\n",
        "AVE/testSet.txt": "Category&VideoID&Quality&StartTime&EndTime\nBus&ghi&good&1&9\n",
    }
    found = convert("ave", files, "AVE")
    assert found == [
        ListedClip("AVE/RUhOCu3LNXM.mp4", "Church bell", 0, 10, "training", "RUhOCu3LNXM"),
        ListedClip("AVE/abc.mp4", "Frying (food)", 2, 5, "training", "abc"),
        ListedClip("AVE/abc.mp4", "Baby cry, infant cry", 6, 8, "validation", "abc"),
        ListedClip("AVE/ghi.mp4", "Bus", 1, 9, "test", "ghi"),
    ]
    assert "1 rows last no time" in capsys.readouterr().err
    assert {clip.part for clip in convert("ave", {}, "AVE", "--whole")} == {""}


def test_cremad(convert, capsys):
    text = '"Stimulus_Number","Filename"\n"1","1001_IEO_NEU_XX"\n"2","1002_IEO_HAP_LO"\n"3","odd"\n'
    found = convert("cremad", {"names.csv": text}, "names.csv")
    assert found == [
        ListedClip("VideoFlash/1001_IEO_NEU_XX.flv", "neutral", source_id="1001"),
        ListedClip("VideoFlash/1002_IEO_HAP_LO.flv", "happiness", source_id="1002"),
    ]
    assert "1 rows name no emotion" in capsys.readouterr().err


EPIC = """narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,\
start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
P01_102_0,P01,P01_102,00:00:01.100,00:00:00.54,00:00:02.23,27,111,take knife,take,0,knife,4,\
"['knife', 'plate']","[4, 2]"
"""
EPIC_SOUNDS = """annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,\
stop_sample,description,class,class_id
P01_01_0,P01,P01_01,00:00:02.466,01:00:05.315,59184,127560,paper rustle,rustle,4
"""


def test_epic_kitchens(convert):
    files = {"EPIC_100_train.csv": EPIC, "EPIC_100_validation.csv": EPIC.replace("P01_", "P02_")}
    files["verbs.csv"] = "id,key,instances,category\n0,take,\"['take']\",retrieve\n"
    found = convert("epic", files, *list(files)[:2], "--label", "verb", "--classes", "verbs.csv")
    assert found == [
        ListedClip("P01/videos/P01_102.MP4", "take", 0.54, 2.23, "training", "P01_102"),
        ListedClip("P01/videos/P02_102.MP4", "take", 0.54, 2.23, "test", "P02_102"),
    ]
    nouns = convert("epic", {}, "EPIC_100_train.csv", "--label", "noun")
    assert nouns[0].action == "noun 4"


def test_epic_sounds(convert):
    files = {"EPIC_Sounds_train.csv": EPIC_SOUNDS}
    found = convert("epic", files, *files, "--label", "class", "--pattern", "{video}.mp4")
    assert found == [ListedClip("P01_01.mp4", "rustle", 2.466, 3605.315, "training", "P01_01")]
    with pytest.raises(SystemExit, match="lacks the column verb_class; it has annotation_id"):
        convert("epic", {}, *files, "--label", "verb")


MOMENTS = "adult+female+singing/yt-a_3.mp4,adult+female+singing,4,1\nrafting/v_1.mp4,rafting,3,2\n"


def test_moments_in_time(convert, capsys):
    files = {
        "trainingSet.csv": MOMENTS,
        "validationSet.csv": "filename,label,positive,negative\nrafting/w_2.mp4,rafting,5,0\n",
        "categories.txt": "rafting,0\n",
    }
    found = convert("moments", files, "trainingSet.csv", "validationSet.csv")
    assert found == [
        ListedClip(
            "training/adult+female+singing/yt-a_3.mp4", "adult+female+singing", split="training"
        ),
        ListedClip("training/rafting/v_1.mp4", "rafting", split="training"),
        ListedClip("validation/rafting/w_2.mp4", "rafting", split="test"),
    ]
    options = ("--categories", "categories.txt", "--min-agreement", "2")
    fewer = convert("moments", {}, "trainingSet.csv", "validationSet.csv", *options)
    assert [clip.path for clip in fewer] == ["validation/rafting/w_2.mp4"]
    told = capsys.readouterr().err
    assert "1 rows have a class that categories.txt does not name" in told
    assert "1 rows have too little agreement" in told


def test_avmit(convert, capsys):
    files = {
        "test_set.csv": "filename,AVMIT_label,MIT_label,video_location,new_filename\n"
        "barking/t_1.mp4,Barking,barking,validation,Barking/1.mp4\n",
        "video_ratings.csv": "filename,r1,r2,r3,AVMIT_label,MIT_label,video_location\n"
        "barking/t_1.mp4,3,0,0,Barking,barking,validation\n"
        "barking/a_1.mp4,2,1,0,Barking,barking,training\n"
        "barking/b_1.mp4,1,1,1,Barking,barking,training\n"
        "rafting/c_1.mp4,3,0,0,Rafting,rafting,training\n",
    }
    found = convert("avmit", files, "video_ratings.csv", "test_set.csv")
    assert found == [
        ListedClip("validation/barking/t_1.mp4", "Barking", split="test"),
        ListedClip("training/barking/a_1.mp4", "Barking", split="training"),
    ]
    told = capsys.readouterr().err
    assert "1 rows have too few ratings of 1" in told
    assert "1 rows have a label that the test set lacks" in told


def test_hugging_face(convert, tmp_path):
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "media root"
    root.mkdir()
    inside = write_video(root / "inside.mp4", 24, sound=sine(400, 1, -12))
    outside = write_video(tmp_path / "outside.mp4", 24, "25")
    ffmpeg("-f", "lavfi", "-i", "sine=600:duration=1", tmp_path / "sound.wav")
    sound = (tmp_path / "sound.wav").read_bytes()
    columns = {
        "clip": [
            {"path": "b.mp4", "bytes": inside.read_bytes()},
            {"path": "a.mp4", "bytes": outside.read_bytes()},
        ],
        "heard": [{"path": "sound.wav", "bytes": sound}] * 2,
        "action": [1, 0],
        "file": [str(inside), str(outside)],
    }
    features = datasets.Features(
        clip=datasets.Video(decode=False),
        heard=datasets.Audio(decode=False),
        action=datasets.ClassLabel(names=["barking", "singing"]),
        file=datasets.Value("string"),
    )
    # Not by from_dict, which encodes sound anew by a package of its own.
    rows = datasets.Dataset(pa.table(columns, features.arrow_schema))
    saved = {"train": rows, "test": rows.select([0])}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "saved"))

    options = ("saved", "--root", str(root), "--video", "clip", "--label", "action")
    found = convert("hugging_face", {}, *options)
    assert [(clip.action, clip.split) for clip in found] == [
        ("singing", "training"),
        ("barking", "training"),
        ("singing", "test"),
    ]
    assert found[0].path == found[2].path
    assert (root / found[1].path).read_bytes() == outside.read_bytes()

    by_path = ("--video", "file", "--label", "action")
    referred = convert("hugging_face", {}, "saved", "--root", str(root), *by_path)
    assert referred[0].path == "inside.mp4"
    assert referred[1].path == found[1].path

    joined = convert("hugging_face", {}, *options, "--audio", "heard")
    log = ffmpeg("-i", root / joined[1].path, "-f", "null", "-").stderr.decode()
    assert "Audio: flac" in log
    assert "Video: h264" in log
    with pytest.raises(
        SystemExit, match="no column 'video'; the data set has clip, heard, action, file"
    ):
        convert("hugging_face", {}, "saved", "--root", str(root))


def test_media_are_written_to_no_url(convert, capsys):
    with pytest.raises(SystemExit):
        convert("hugging_face", {}, "saved", "--root", "s3://bucket/clips")
    assert "s3://bucket/clips is a URL: name a folder, and copy it there" in capsys.readouterr().err
    assert not Path("s3:").exists()


def test_times_are_seconds_or_clocks():
    assert annotations.seconds("12.5") == 12.5
    assert annotations.seconds("01:02:03.250") == 3723.25
    assert annotations.seconds("02:03") == 123


def test_a_pattern_that_asks_for_what_is_not_there_is_a_sentence():
    with pytest.raises(UserError, match="'name'; it may have {id}"):
        annotations.path_of("{name}.mp4", id="a")


def test_a_missing_file_and_an_empty_one_are_sentences(convert):
    with pytest.raises(SystemExit, match="none.csv: No such file"):
        convert("vggsound", {}, "none.csv")
    with pytest.raises(SystemExit, match="no row of the annotations makes a clip"):
        convert("vggsound", {"empty.csv": ""}, "empty.csv")
