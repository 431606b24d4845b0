"""Measurements of the software itself: `python -m benchmarks.<name>`."""

from audio_from_video.runtime import kernels

kernels.fix()  # as in the stages
