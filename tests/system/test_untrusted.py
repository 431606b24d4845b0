"""Strangers' files: nothing they say makes a decoder read another file or call an address, and no
code of theirs runs.

Every attack is first shown to work on a decoder without our limits, so that a test that passes
means something.
"""

import ast
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest

from audio_from_video.media import pictures, sound, untrusted
from tests.support.attacks import documents, server, with_reference
from tests.support.closure import ROOT
from tests.support.media_files import FFMPEG, shown_frames, sine, write_video

OPEN = [
    "-allowed_extensions",
    "ALL",
    "-extension_picky",
    "0",
    "-protocol_whitelist",
    "file,http,tcp,concat,crypto,udp,rtp,rtsp",
]
# Attacks that succeed where nothing forbids them, by the address that is called or by the
# secret that is shown
REACHES = {
    "HLS, address": "call",
    "HLS, key from an address": "call",
    "HLS, master list": "call",
    "concat script, address": "call",
    "DASH, address": "call",
    "HLS, absolute path": "secret",
    "HLS, neighbour": "secret",
    "concat script, neighbour": "secret",
    "external reference": "secret",
}
DRAWN = 37  # frames of the secret: no other file here has so many


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A server, and a file of every attack beside the secret that it wants."""
    folder = tmp_path_factory.mktemp("attacks")
    secret = write_video(folder / "secret.ts", DRAWN, "24", "-c:a", "aac", sound=sine(440, 1.5, -3))
    good = write_video(folder / "good.mp4", 72, "24", "-c:a", "aac", sound=sine(440, 3, -6))
    plain = write_video(folder / "plain.mp4", DRAWN, "24")
    with server() as listening:
        paths = {}
        for name, data in documents(f"http://127.0.0.1:{listening.port}", secret).items():
            paths[name] = folder / f"{len(paths)}.mp4"
            paths[name].write_bytes(data)
        paths["external reference"] = folder / "reference.mp4"
        paths["external reference"].write_bytes(
            with_reference(plain.read_bytes(), shutil.copy(plain, folder / "outside.mp4"))
        )
        blanked = bytearray(paths["external reference"].read_bytes())
        start, end = blanked.index(b"mdat") + 4, blanked.index(b"moov") - 4
        blanked[start:end] = bytes(
            end - start
        )  # its own data are empty: only the other file has pictures
        paths["external reference"].write_bytes(blanked)
        yield listening, paths, good


def decoded_without_limits(path, *options) -> int:
    """How many frames ffmpeg decodes from a file when everything is allowed."""
    command = [
        FFMPEG,
        "-nostdin",
        "-loglevel",
        "error",
        *options,
        "-i",
        path,
        "-map",
        "0:v",
        "-f",
        "framecrc",
        "-",
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return 0
    return sum(not line.startswith(b"#") for line in done.stdout.splitlines())


ALLOWED = {
    "HLS": ["-f", "hls", *OPEN],
    "con": ["-f", "concat", "-safe", "0", *OPEN[4:]],
    "DAS": ["-f", "dash", *OPEN[4:]],
    "ext": ["-enable_drefs", "1", "-use_absolute_path", "1"],
}


@pytest.mark.parametrize("name", REACHES)
def test_the_attacks_are_real(scene, name):
    listening, paths, _ = scene
    before = listening.calls
    frames = decoded_without_limits(paths[name], *ALLOWED[name[:3]])
    if REACHES[name] == "call":
        assert listening.calls > before
    else:
        assert frames == DRAWN


def test_no_attack_makes_a_call_or_shows_a_secret(scene):
    """Facts, pictures and sound, each for itself."""
    listening, paths, _ = scene
    before = listening.calls
    for name, path in paths.items():
        # An external reference is a container of its own: its header may be read, its data are what
        # lies inside.
        if name != "external reference":
            for read in (pictures.probe, pictures.packet_times):
                with pytest.raises(untrusted.MediaError) as caught:
                    read(path)
                assert caught.value.status == "unreadable", name
                reason = caught.value.reason
                assert "whitelist" in reason or "Invalid data" in reason, name
        with pytest.raises(untrusted.MediaError):
            pictures.read_frames(path, lambda shown: np.arange(3), np.copy)
        with pytest.raises(untrusted.MediaError):
            sound.decode_sound(path, 0.0, 1.0)
    assert listening.calls == before


def test_importing_the_reader_changes_no_environment():
    code = (
        "import cv2, os; before = dict(os.environ); import audio_from_video.media.pictures; "
        "print(before == dict(os.environ))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed == "True\n"


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "magicyuv", "utvideo"])
def test_common_and_rare_codecs_are_read(tmp_path, codec):
    path = write_video(tmp_path / "a.mkv", 12, "24", "-c:v", codec, "-pix_fmt", "yuv444p")
    _, frames = pictures.read_frames(path, lambda shown: np.arange(12), np.copy)
    assert np.abs(np.stack(frames).astype(int) - shown_frames(path)[1]).mean() < 4


def test_strangers_files_meet_a_mended_ffmpeg_alone():
    """FFmpeg 8.1.2 and later: MagicYUV of 8.1.1, in OpenCV, writes beyond its memory
    (CVE-2026-8461), so no file of a stranger's reaches OpenCV's decoders."""
    assert av.library_versions["libavcodec"] >= (62, 28, 102)
    for folder in ("audio_from_video", "stages", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "VideoCapture(" not in path.read_text(), path


# Code: nothing that would run a stranger's


SOURCES = sorted(
    path
    for name in ("audio_from_video", "stages", "tools", "benchmarks")
    for path in (ROOT / name).rglob("*.py")
)
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "diskcache"}
CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.unsafe_load",
    "np.load",
    "__import__",
}


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def faults(text: str) -> list[str]:
    """What in a module's text could run code that came with data."""
    found = []
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [f"imports {name}" for name in names if name.split(".")[0] in MODULES]
    for call in calls(tree):
        name = ast.unparse(call.func)
        values = {word.arg: word.value for word in call.keywords}
        constants = {
            key: value.value for key, value in values.items() if isinstance(value, ast.Constant)
        }
        if name in CALLS and not (
            name == "np.load" and constants.get("allow_pickle", False) is False
        ):
            found.append(name)
        if name == "torch.load" and constants.get("weights_only") is True:
            found.remove(name)
        dangerous = {"trust_remote_code", "shell", "allow_pickle"} & set(values)
        found += [f"{name}({key})" for key in dangerous if constants.get(key) is not False]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_came_with_data(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch; torch.load(x)",
        "torch.load(x, weights_only=False)",
        "eval(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=y)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x)",
    ],
)
def test_faults_are_found(text):
    assert faults(text)


def test_subprocesses_get_lists_never_strings():
    for path in SOURCES:
        for call in calls(ast.parse(path.read_text())):
            if ast.unparse(call.func) in (
                "subprocess.run",
                "subprocess.Popen",
                "subprocess.check_output",
                "subprocess.check_call",
            ):
                assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp), path


def test_a_pickled_model_is_not_loaded(tmp_path):
    """A model directory with a pickle that would leave a trace."""
    import pickle

    from audio_from_video.backbones.vision import VisionBackbone
    from audio_from_video.runtime.errors import UserError

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    model = tmp_path / "vit"
    shutil.copytree(ROOT / "models/tiny/vit", model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="no file named model.safetensors"):
        VisionBackbone(str(model))
    assert not (tmp_path / "executed").exists()
