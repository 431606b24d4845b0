"""Commands beside the pipeline: `python -m tools.<command>`."""

from audio_from_video.runtime import kernels

kernels.fix()  # before the commands import NumPy and PyTorch
