"""AudioSet's published features: records that the test writes, and the map against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from audio_from_video.audioset.published_features import (
    dequantise,
    fit_map,
    leave_one_out,
    read,
    records,
)
from audio_from_video.runtime.errors import UserError
from tests.support.published_records import write_records

RNG = np.random.default_rng(0)


def seconds(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 128)).astype(np.uint8)


def test_dequantisation():
    values = dequantise(np.array([0, 255, 128], np.uint8))
    assert values == pytest.approx([-2 + 4 / 512, 2 + 4 / 512, 128 * 4 / 255 - 2 + 4 / 512])
    exact = RNG.uniform(-2, 2, 10_000)
    quantised = ((exact + 2) * 255 / 4).astype(np.uint8)  # as VGGish does it
    assert (
        abs(dequantise(quantised) - exact).max() < 4 / 255 * 0.51
        and abs((dequantise(quantised) - exact).mean()) < 2e-4
    )


def test_records_come_back_as_written(tmp_path):
    clips = [([1, 522, 11, 172], seconds(10)), ([0], seconds(1)), ([526, 3], seconds(7))]
    write_records(tmp_path / "a.tfrecord", clips)
    found = list(records(tmp_path / "a.tfrecord", 527))
    assert [labels.tolist() for labels, _ in found] == [[1, 11, 172, 522], [0], [3, 526]]
    assert all(
        np.array_equal(values, expected)
        for (_, values), (_, expected) in zip(found, clips, strict=True)
    )


def test_a_record_of_its_raw_bytes(tmp_path):
    """Framing built by hand: length, its checksum (0: nobody looks), message, its checksum."""

    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return (
            bytes([number << 3 | 2])
            + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]))
            + content
        )

    labels = field(1, field(1, b"labels") + field(2, field(3, field(1, bytes([5, 2])))))
    embedding = field(
        1, field(1, b"audio_embedding") + field(2, field(1, field(1, field(1, bytes(range(128))))))
    )
    message = field(1, labels) + field(2, embedding)
    (tmp_path / "a.tfrecord").write_bytes(
        len(message).to_bytes(8, "little") + bytes(4) + message + bytes(4)
    )
    ((present, values),) = records(tmp_path / "a.tfrecord", 527)
    assert present.tolist() == [2, 5] and values.tolist() == [list(range(128))]


def test_label_means_are_of_clips_and_relative_to_all(tmp_path):
    constant = [
        np.full((count, 128), value, np.uint8) for count, value in ((2, 0), (6, 255), (1, 51))
    ]
    (tmp_path / "eval/deep").mkdir(parents=True)
    write_records(tmp_path / "eval/deep/b.tfrecord", [([0, 2], constant[0]), ([0, 0], constant[1])])
    write_records(
        tmp_path / "a.tfrecord", [([2], constant[2]), ([1], np.empty((0, 128), np.uint8))]
    )
    (tmp_path / "notes.txt").write_text("no record")
    seen: list[Path] = []
    found = read(str(tmp_path), 4, lambda paths: seen.extend(paths) or paths)
    assert [path.name for path in seen] == ["a.tfrecord", "b.tfrecord"]
    assert found.total == 3 and found.clips.tolist() == [
        2,
        0,
        2,
        0,
    ]  # each clip once, whatever its length; none without a second
    low, high, other = -2, 2, 51 * 4 / 255 - 2
    mean = (low + high + other) / 3
    expected = np.array([(low + high) / 2 - mean, 0, (low + other) / 2 - mean, 0])
    np.testing.assert_allclose(found.means, np.repeat(expected[:, None], 128, 1), atol=1e-12)


@pytest.mark.parametrize(
    "damage, cause",
    [
        ("end", "record 2 cannot be read .Failed to read the end token"),
        ("middle", "record 2 cannot be read .Failed to read the record"),
        ("header", "record 3 cannot be read .Failed to read the record size"),
        ("page", "record 1 cannot be read"),
        ("message", "record 1 cannot be read .*pars"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, damage, cause):
    path = tmp_path / "a.tfrecord"
    write_records(path, [([1], seconds(10)), ([2], seconds(10))])
    content = path.read_bytes()
    path.write_bytes(
        {
            "end": content[:-2],
            "middle": content[:-300],
            "header": content + b"abc",
            "page": b"<html><body>404 not found</body></html>",
            "message": content[:12] + b"\xff" * 40 + content[52:],
        }[damage]
    )
    with pytest.raises(UserError, match=rf"a\.tfrecord: {cause}.*: get the file again from https"):
        read(str(tmp_path), 527, list)


@pytest.mark.parametrize(
    "labels, width, changes, cause",
    [
        ([527], 128, {}, r"labels are not all in 0\.\.526"),
        ([-1], 128, {}, "labels are not all"),
        ([1], 64, {}, "other than 128 bytes"),
        ([1], 128, {"labels": None}, "labels doesn't exist"),
        ([1], 128, {"labels": (b"Speech", "byte")}, "Incompatible type"),
    ],
)
def test_records_of_another_kind_are_one_sentence(tmp_path, labels, width, changes, cause):
    write_records(tmp_path / "a.tfrecord", [(labels, seconds(3)[:, :width])], **changes)
    with pytest.raises(UserError, match=f"record 1 cannot be read .*{cause}"):
        read(str(tmp_path), 527, list)


@pytest.mark.parametrize("root", ["", "nowhere", "."])
def test_no_folder_or_no_records_is_one_sentence(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.tfrecord").touch()
    with pytest.raises(
        UserError,
        match=f"audioset_root = '{root}' (is no folder|holds no .*tfrecord file with records)",
    ):
        read(root, 527, list)


def test_the_map_is_scikit_learns():
    x, y = RNG.normal(size=(9, 128)), RNG.normal(size=(9, 4))
    model = Ridge(alpha=1.5, fit_intercept=False)
    np.testing.assert_allclose(fit_map(x, y, 1.5), model.fit(x, y).coef_.T, atol=1e-10)
    np.testing.assert_allclose(
        leave_one_out(x, y, 1.5), cross_val_predict(model, x, y, cv=LeaveOneOut()), atol=1e-10
    )
