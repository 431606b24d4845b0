"""A log-mel spectrogram as a small picture: how it is stored, and in which colours it is shown."""

import cv2
import numpy as np

from audio_from_video.media import codecs

RANGE = (-1.2, 1.2)  # of the brightness, in AST's normalised units
FRAMES_PER_S = 100  # AST's spectrogram has a frame each 10 ms
SHRINK = 2  # frames and mel bins that become one pixel, each way
PIXELS_PER_S = FRAMES_PER_S / SHRINK
QUALITY = 80  # of the JPEG


def encode(log_mel: np.ndarray) -> bytes:
    """Return a log-mel [frames, mel bins] as a grey JPEG, low frequencies below."""
    low, high = RANGE
    brightness = np.clip((log_mel.T[::-1] - low) / (high - low), 0, 1)
    mel_bins, frames = brightness.shape
    size = (max(1, frames // SHRINK), max(1, mel_bins // SHRINK))
    grey = cv2.resize((255 * brightness).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    return codecs.encode_jpeg(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), QUALITY)


def coloured(jpeg: bytes, duration_s: float) -> bytes:
    """Return what `encode` gave in colours and cut to a clip's duration, as JPEG."""
    width = max(1, round(duration_s * PIXELS_PER_S))
    grey = codecs.decode_jpeg(jpeg)[:, :width, 0]
    image = cv2.applyColorMap(np.ascontiguousarray(grey), cv2.COLORMAP_MAGMA)
    return codecs.encode_jpeg(image, QUALITY)
