"""The stages of the pipeline, each a script: `python -m stages.<stage>`."""

from audio_from_video.runtime import kernels

kernels.fix()  # before the scripts import NumPy and PyTorch
