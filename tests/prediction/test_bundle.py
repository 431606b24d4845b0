"""A bundle is read whole or refused in a sentence."""

import json
import shutil

import pytest

from audio_from_video.prediction import bundle
from audio_from_video.prediction.bundle import read_bundle
from audio_from_video.runtime.errors import UserError
from tests.support.tiny_bundle import copy_of, write_settings


@pytest.fixture
def folder(whole_bundle, tmp_path):
    return copy_of(whole_bundle, tmp_path / "copy")


def test_a_whole_bundle_is_read_with_its_backbones(folder):
    read = read_bundle(folder)
    assert read.models["vision"] == folder / "backbones/vision"
    assert set(read.tensors(bundle.PROJECTION)) == {"mean", "components", "explained"}


@pytest.mark.parametrize("name", [bundle.MEANING, "backbones/vision/config.json"])
def test_a_changed_byte_is_noticed(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_bundle(folder)


def test_a_missing_file_is_named(folder):
    (folder / bundle.LABEL_MAP).unlink()
    with pytest.raises(UserError, match=f"{bundle.LABEL_MAP} is missing"):
        read_bundle(folder)


def test_another_schema_is_refused(folder):
    path = folder / bundle.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="has schema version 99, this software reads 2"):
        read_bundle(folder)


def test_a_setting_of_another_kind_is_refused(folder):
    path = folder / bundle.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"actions": 3}))
    with pytest.raises(UserError, match="is damaged: actions"):
        read_bundle(folder)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_what_is_no_settings_file_is_refused(folder, content):
    (folder / bundle.SETTINGS).write_text(content)
    with pytest.raises(UserError, match=bundle.SETTINGS):
        read_bundle(folder)


def test_a_folder_without_settings_is_no_bundle(tmp_path):
    with pytest.raises(UserError, match="is no bundle"):
        read_bundle(tmp_path)


def published(folder, name: str, digest: str) -> None:
    """Turn the bundle's vision model into a published one of this name."""
    settings = read_bundle(folder).settings
    vision = settings.backbones["vision"]
    changed = vision.model_copy(update={"name": name, "folder": "", "digest": digest})
    shutil.rmtree(folder / "backbones/vision")
    backbones = settings.backbones | {"vision": changed}
    write_settings(folder, settings.model_copy(update={"backbones": backbones}))


def test_a_published_backbone_that_is_not_here_is_named_and_not_fetched(folder, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    published(folder, "nobody/no-such-model", "0" * 32)
    with pytest.raises(UserError, match="needs the published model 'nobody/no-such-model'"):
        read_bundle(folder)


def test_a_published_backbone_with_other_files_is_refused(folder, whole_bundle):
    published(folder, str(whole_bundle / "backbones/vision"), "0" * 32)
    with pytest.raises(UserError, match="was made with other files"):
        read_bundle(folder)
