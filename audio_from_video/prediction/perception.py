"""What the backbones make of a window: features of pictures, flow and sound, and captions.

The functions are those of the stages, so that a clip gets the same features as in training.
Features are rounded to float16, as they are stored there.
"""

from dataclasses import dataclass

import numpy as np

from audio_from_video.backbones import captioners
from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.audio_steps import HeardSound, encode_sound
from audio_from_video.backbones.settings import CaptionerSettings
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.media import codecs
from audio_from_video.media.motion import choose, mean_magnitudes
from audio_from_video.media.optical_flow import draw_clip
from audio_from_video.prediction.bundle import CAPTIONS, LABELLER, Bundle
from audio_from_video.prediction.videos import Window
from audio_from_video.runtime.parallel import one_thread


@dataclass(frozen=True)
class Percept:
    """What is seen and heard in a window of T steps.

    video [T, 2D] float16: features of frames and flow, one behind the other.
    captions: of the representative frames, by step.
    level_dbfs: of the sound, None without a track.  sound: None where it is silent.
    """

    video: np.ndarray
    captions: dict[int, str]
    level_dbfs: float | None
    sound: HeardSound | None


class Perception:
    """The backbones of a bundle, on a device (default: `hub.device()`)."""

    def __init__(self, bundle: Bundle, device: str | None = None):
        self.settings = bundle.settings
        video = self.settings.video_features
        self.vision = VisionBackbone(
            str(bundle.models["vision"]), video.attention, video.temporal_scale, device
        )
        self.audio = load_audio(str(bundle.models["audio"]), device)
        labeller = bundle.models.get(LABELLER)
        self.labeller = load_audio(str(labeller), device) if labeller else None
        captions = self.settings.captions
        model = CaptionerSettings(
            str(bundle.folder / CAPTIONS), captions.beams, captions.max_tokens, captions.prompt
        )
        self.captioner = captioners.load(model, device)

    def __call__(self, window: Window) -> Percept:
        """Return what is seen and heard in a window."""
        flow_jpegs = draw_clip((window.jpegs, self.settings.optical_flow))["jpegs"]
        features = [self.features(window.jpegs), self.features(flow_jpegs)]
        level_dbfs, sound = self.hear(window.samples)
        return Percept(np.concatenate(features, -1), self.caption(window.jpegs), level_dbfs, sound)

    def features(self, jpegs: list[bytes]) -> np.ndarray:
        """Return the features [T, D] float16 of images."""
        images = np.stack([codecs.decode_jpeg(jpeg) for jpeg in jpegs])
        return self.vision.encode(self.vision.fit(images)[None])[0].astype(np.float16)

    def caption(self, jpegs: list[bytes]) -> dict[int, str]:
        """Return the captions of the representative ones of a window's frames, by step."""
        p = self.settings.representative_frames
        magnitudes = mean_magnitudes((jpegs, p.camera))["magnitudes"].astype(np.float32)
        steps = np.flatnonzero(choose(magnitudes, p.threshold)).tolist()
        pictures = self.captioner.prepare([codecs.decode_jpeg(jpegs[step]) for step in steps])
        texts = self.captioner.captions(pictures)
        return dict(zip(steps, texts, strict=True))

    def hear(self, samples: np.ndarray | None) -> tuple[float | None, HeardSound | None]:
        """Return the level of sound [n] int16, and what is heard in it where it is audible."""
        if samples is None:
            return None, None
        level_dbfs = codecs.rms_dbfs(samples)
        if level_dbfs < self.settings.audio.silence_db:
            return level_dbfs, None
        wave = codecs.decode_flac(codecs.encode_flac(samples))
        count = self.settings.frames.count
        heard = encode_sound(self.audio, wave, count, self.settings.audio_features, self.labeller)
        return level_dbfs, HeardSound(*(part.astype(np.float16) for part in heard))


_perception: Perception  # of this process; `load` sets it, as the initializer of a worker


def load(bundle: Bundle, device: str | None = None) -> None:
    """Load the backbones of this process."""
    global _perception
    one_thread()
    _perception = Perception(bundle, device)


def perceive(window: Window) -> Percept:
    """Return what is seen and heard in a window (runs in a worker)."""
    return _perception(window)
