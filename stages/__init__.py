"""The stages of the pipeline, each a script: `python -m stages.<stage>`."""

import sys

from audio_from_video.runtime import kernels, parallel

kernels.fix()  # before the scripts import NumPy and PyTorch

# These train in workers, whose server imports PyTorch while the script itself does.
TRAINING_STAGES = ("stages.classifier", "stages.generator")
if sys.argv[0] == "-m":  # Python has not come to the script yet
    for _stage in TRAINING_STAGES:
        if _stage in sys.orig_argv:
            parallel.start_server(_stage)
