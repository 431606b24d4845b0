"""The tests: flat for stages, `<room>/` for the library, `system/` for all of it together."""

from audio_from_video.runtime import kernels

kernels.fix()  # as in the stages
