"""The chain of answers that is recommended for a clip: the best one whose audio can be trusted.

Real audio where it is audible and fits the action that `video_only` predicts, else the audio that
captions were mapped to where the filter keeps it, else the video alone.
"""

import numpy as np

from audio_from_video.runtime.vocabulary import ARCHITECTURES, CAPTION_MAPPING

NAME = "recommended"
REAL_AUDIO = "real_audio"
VIDEO_ONLY = "video_only"

# The condition that answers, by the word that says why.
CONDITION_OF = {
    REAL_AUDIO: REAL_AUDIO,
    CAPTION_MAPPING: ARCHITECTURES[CAPTION_MAPPING].filtered,
    VIDEO_ONLY: VIDEO_ONLY,
}


def recommend(real_fits: np.ndarray, mapped_kept: np.ndarray) -> np.ndarray:
    """Return the word of CONDITION_OF for each clip [n].

    real_fits [n] bool: whose real audio is audible and passes the filter.  mapped_kept [n] bool:
    whose generated audio of `caption_mapping` does.
    """
    generated = np.where(mapped_kept, CAPTION_MAPPING, VIDEO_ONLY)
    return np.where(real_fits, REAL_AUDIO, generated)
