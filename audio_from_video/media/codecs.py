"""Our own media bytes: JPEG pictures and FLAC sound."""

import io

import numpy as np

SAMPLE_RATE_HZ = 16_000  # what AST was trained on


def rms_dbfs(samples: np.ndarray) -> float:
    """RMS level of int16 samples in dB relative to full scale (a full-scale sine has -3.01 dB); -inf becomes -120."""
    rms = np.sqrt(np.mean(np.square(samples.astype(np.float64) / 32768)))
    return float(max(20 * np.log10(max(rms, 1e-6)), -120.0))


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """A BGR image [H, W, 3] uint8 as JPEG bytes."""
    import cv2

    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def decode_jpeg(data: bytes) -> np.ndarray:
    """JPEG bytes as a BGR image [H, W, 3] uint8."""
    import cv2

    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def encode_flac(samples: np.ndarray) -> bytes:
    """int16 samples [n] at 16 kHz as FLAC bytes."""
    import soundfile

    sink = io.BytesIO()
    soundfile.write(sink, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return sink.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """FLAC bytes as float32 samples [n] in [-1, 1) at 16 kHz."""
    import soundfile

    return soundfile.read(io.BytesIO(data), dtype="float32")[0]
