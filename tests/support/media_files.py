"""Media files for tests, made by imageio-ffmpeg's binary, and what that binary says about them."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
RATES = {"24": "24", "25": "25", "29.97": "30000/1001", "30": "30", "50": "50", "60": "60"}
VARIABLE_RATE = "settb=1/90000,setpts='if(lt(N,30),N/30,1+(N-30)/12)/TB'"  # 30 fps for 1 s, then 12
BITS = 8  # vertical bars, one per bit of the frame's number


def ffmpeg(*arguments: str | Path | float, data: bytes = b"") -> subprocess.CompletedProcess:
    """Run ffmpeg, which must succeed; `data` is its standard input."""
    command = [FFMPEG, "-y", "-nostdin" if not data else "-hide_banner", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done


def numbered_images(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return images [count, H, W, 3] uint8 that show their number in black and white bars."""
    bits = np.arange(count)[:, None] >> np.arange(BITS) & 1  # [count, BITS]
    row = np.repeat(bits * 255, width // BITS, axis=1)
    return np.broadcast_to(row[:, None, :, None], (count, height, width, 3)).astype(np.uint8)


def read_number(image: np.ndarray) -> int:
    """Return the number that an image [H, W, 3] of `numbered_images` shows, at any scale."""
    width = image.shape[1] / BITS
    middle = image[image.shape[0] // 4 : -image.shape[0] // 4]
    number = 0
    for bit in range(BITS):
        bar = middle[:, round((bit + 0.3) * width) : round((bit + 0.7) * width)]
        if bar.mean() > 128:
            number += 1 << bit
    return number


def write_video(
    path: Path,
    count: int,
    fps: str = "24",
    *output: str,
    sound: np.ndarray | None = None,
    height: int = 48,
) -> Path:
    """Write a file of `count` numbered frames at `fps`, with ffmpeg's `output` options.

    `sound`: float samples at 16 kHz, [N] or [N, 2].
    """
    images = numbered_images(count, height)
    size = f"{images.shape[2]}x{images.shape[1]}"
    raw_video = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", fps)
    inputs: list[str | Path] = [*raw_video, "-i", "-"]
    samples = path.with_name(path.name + ".f32")
    if sound is not None:
        samples.write_bytes(sound.astype("<f4").tobytes())
        layout = "mono" if sound.ndim == 1 else "stereo"
        inputs += ["-f", "f32le", "-ar", "16000", "-ch_layout", layout, "-i", samples]
    ffmpeg(*inputs, "-threads", "1", *output, path, data=images.tobytes())
    samples.unlink(missing_ok=True)
    return path


def shown_frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a file's frames as ffmpeg decodes and prints them.

    These are presentation times [n] in s from the first frame, and images [n, H, W, 3] BGR.
    """
    every_frame = ("-map", "0:v:0", "-fps_mode", "passthrough")
    done = ffmpeg("-i", path, *every_frame, "-vf", "format=bgr24,showinfo", "-f", "rawvideo", "-")
    log = done.stderr.decode(errors="replace")
    times_s = np.array([float(time) for time in re.findall(r"pts_time:\s*(-?[\d.e+-]+)", log)])
    width, height = map(int, re.findall(r" s:(\d+)x(\d+) ", log)[0])
    images = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return times_s - times_s[0], images


def sine(
    frequency_hz: float, seconds: float, level_db: float = 0.0, rate_hz: int = 16_000
) -> np.ndarray:
    """Return samples of a sine whose peak is `level_db` relative to full scale."""
    samples = np.arange(round(seconds * rate_hz))
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * frequency_hz * samples / rate_hz)


def broken_files(folder: Path) -> dict[str, Path]:
    """Write files that cannot be decoded; their paths by what is wrong with them."""
    good = write_video(folder / "good.mp4", 72, "24", "-movflags", "faststart").read_bytes()
    late_index = write_video(folder / "late.mp4", 72).read_bytes()
    contents = {
        "empty": b"",
        "text": b"this is no video\n" * 50,
        "random": np.random.default_rng(0).bytes(5000),
        "truncated": good[: len(good) * 3 // 5],
        "truncated before its index": late_index[: len(late_index) * 3 // 5],
        "list of other files": b"ffconcat version 1.0\nfile good.mp4\nduration 3\n",
    }
    paths = {name: folder / f"{name}.mp4" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    paths["missing"] = folder / "nowhere.mp4"
    paths["folder"] = folder / "folder.mp4"
    paths["folder"].mkdir()
    return paths
