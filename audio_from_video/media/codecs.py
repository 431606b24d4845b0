"""Our own media bytes: JPEG pictures and FLAC sound."""

import io

import cv2
import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16_000  # what AST was trained on


def rms_dbfs(samples: np.ndarray) -> float:
    """Return the RMS level of int16 samples in dB relative to full scale, at least -120.

    A full-scale sine has -3.01 dB.
    """
    rms = np.sqrt(np.mean(np.square(samples.astype(np.float64) / 32768)))
    return float(max(20 * np.log10(max(rms, 1e-6)), -120.0))


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode a BGR image [H, W, 3] uint8 as JPEG; quality: 0 to 100."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode JPEG bytes as a BGR image [H, W, 3] uint8."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def encode_flac(samples: np.ndarray) -> bytes:
    """Encode samples [n] at 16 kHz, int16 or floating-point in [-1, 1], as FLAC of 16 bits."""
    sink = io.BytesIO()
    soundfile.write(sink, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return sink.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Decode FLAC bytes as float32 samples [n] in [-1, 1)."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return samples
