"""Our own media bytes: JPEG pictures and FLAC sound."""

import io

import cv2
import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16_000  # what AST was trained on
MIN_DBFS = -120.0  # of silence


def rms_dbfs(samples: np.ndarray) -> float:
    """Return the RMS level of int16 samples [n] in dB relative to full scale (see level_dbfs)."""
    return level_dbfs(samples.astype(np.float64) / 32768)


def level_dbfs(samples: np.ndarray) -> float:
    """Return the RMS level of samples [n], full scale 1, in dB without their constant part.

    A full-scale sine has -3.01 dB.  Silence has -120, and so has a constant, such as the 127 at
    which 8-bit sound rests.
    """
    if not len(samples):
        return MIN_DBFS
    centred = samples - samples.mean(dtype=np.float64)
    rms = float(np.sqrt(np.mean(np.square(centred))))
    return max(20 * float(np.log10(max(rms, 1e-6))), MIN_DBFS)


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
