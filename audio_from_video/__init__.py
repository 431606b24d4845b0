"""Missing audio features for video action recognition.

`Pipeline` answers new clips with a bundle, `VideoArray` is a video that the caller has decoded:

    from audio_from_video import Pipeline
    Pipeline.from_pretrained("models/bundle").predict(["clip.mp4"])
"""

from importlib import import_module
from typing import Any

# By name and not by an import: stages, which import this package, too, do not depend on it.
OFFERED = {
    "Pipeline": "audio_from_video.prediction.pipeline",
    "VideoArray": "audio_from_video.prediction.videos",
}


def __getattr__(name: str) -> Any:
    """Import what is offered once it is asked for, as it brings PyTorch along."""
    if name not in OFFERED:
        raise AttributeError(f"module 'audio_from_video' has no attribute {name!r}")
    # The numeric kernels of the pipeline, where NumPy and PyTorch are yet to be imported.
    import_module("audio_from_video.runtime.kernels").fix()
    return getattr(import_module(OFFERED[name]), name)
