"""Lists of clips: what is read from CSV and Parquet, and what is said of odd rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audio_from_video.clipset import lists
from audio_from_video.clipset.lists import ListedClip
from audio_from_video.runtime.errors import UserError

HEADER = "path,action,start_s,end_s,split,source_id\n"
CLIPS = [
    ListedClip("a/one.mp4", "barking", 0.0, 2.5, "training", "one"),
    ListedClip("a/one.mp4", "barking", 2.5, 5.0, "training", "one"),
    ListedClip("b/two, three.mp4", "playing music"),
    ListedClip("c.mp4", "", None, None, "unlabelled"),
]


def test_a_list_is_read_as_it_was_written(tmp_path):
    assert lists.write(tmp_path / "new/list.csv", CLIPS) == 4
    assert lists.read(tmp_path / "new/list.csv") == (CLIPS, [])


def test_parquet_with_numbers_and_nulls_is_the_same_list(tmp_path):
    table = pa.table(
        {
            "path": [clip.path for clip in CLIPS],
            "action": [clip.action or None for clip in CLIPS],
            "start_s": pa.array([0, 2.5, float("nan"), None], pa.float64()),
            "end_s": pa.array([2.5, 5.0, None, None], pa.float64()),
            "split": ["training", "training", None, "unlabelled"],
            "source_id": ["one", "one", "", None],
            "remark": [1, 2, 3, 4],
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    assert lists.read(tmp_path / "list.parquet") == (CLIPS, [])


def test_paths_have_one_spelling_and_rows_count_once(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,action\n./a//one.mp4,barking\na/one.mp4,barking\na/two.mp4,barking\n")
    clips, sentences = lists.read(path)
    assert [clip.path for clip in clips] == ["a/one.mp4", "a/two.mp4"]
    assert sentences == ["1 rows stand there twice and count once, such as row 3 (a/one.mp4)"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["a.mp4,x,one,2,,", "b.mp4,x,nan,2,,"], "2 rows have a time that is no number of seconds"),
        (["a.mp4,x,-1,2,,"], "such as row 2 (a.mp4): start_s = '-1'"),
        (["a.mp4,x,1,,,"], "1 rows have only one of start_s and end_s"),
        (["a.mp4,x,3,3,,"], "1 rows end before they begin, such as row 2 (a.mp4): 3 to 3 s"),
        (["a.mp4,x,,,train,"], "1 rows have a split other than training, validation, test"),
        (["a.mp4,,,,test,"], "1 rows have no action, though they are not unlabelled"),
        ([",x,,,,"], "1 rows have no path, such as row 2"),
        (["/a.mp4,x,,,,", "../b.mp4,x,,,,"], "2 rows have a path that leads out of clips.root"),
        ([], "has no rows"),
    ],
)
def test_what_makes_no_sense_is_counted_and_shown(tmp_path, rows, complaint):
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    with pytest.raises(UserError) as raised:
        lists.read(path)
    assert complaint in str(raised.value)
    assert str(path) in str(raised.value)


def test_all_kinds_of_mistakes_are_told_at_once(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "a.mp4,x,3,2,,\na.mp4,x,1,,,\nb.mp4,x,9,2,,\n")
    with pytest.raises(UserError, match="2 rows end before .* 1 rows have only one"):
        lists.read(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.csv", b"file,label\na.mp4,x\n", "lacks the column path, action; it has file, label"),
        ("list.csv", b"", "lacks the column path, action; it has none"),
        ("list.csv", b'path,action\n"a', "is no CSV file"),
        ("list.parquet", b"path,action\n", "is no Parquet file"),
    ],
)
def test_a_file_that_is_no_list_is_a_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        lists.read(tmp_path / name)


def test_a_missing_list_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        lists.read(tmp_path / "none.csv")


def test_parts_have_names_of_their_own():
    names = {ListedClip("a", "x", start, start + 1).part for start in (1234.567, 1234.568, 0.1)}
    assert names == {"@1234.567-1235.567", "@1234.568-1235.568", "@0.1-1.1"}
    assert ListedClip("a", "x").part == ""
