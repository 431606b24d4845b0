"""The chain of answers as a condition: whose answer a clip gets."""

import numpy as np
import pyarrow as pa
import pytest

from audio_from_video.evaluation import recommended
from audio_from_video.storage import layout, predictions, shards
from tests.support import synthetic

LINKS = ("real_audio", "mapped_validated", "video_only")


@pytest.fixture
def rows(workspace) -> list[dict]:
    """Labelled clips with decisions: every second real sound fits, every third mapped is kept."""
    clips = synthetic.in_order([row for row in synthetic.make_clips() if row["action"]])
    for number, row in enumerate(clips):
        row["keep_real"] = number % 2 == 0
        row["keep"] = number % 3 == 0
    for architecture, column in (("semantic_validation", "keep_real"), ("caption_mapping", "keep")):
        table = [{"clip_id": row["clip_id"], column: row[column]} for row in reversed(clips)]
        shards.write_table(pa.Table.from_pylist(table), layout.decisions(architecture))
    for seed, condition in enumerate(LINKS):
        synthetic.write_predictions(condition, clips, seed)
    return clips


def test_a_clip_has_the_answer_of_the_first_link_that_holds(rows):
    chain = recommended.recommended_predictions()
    answers = {condition: predictions.read(condition) for condition in LINKS}
    scored = [row for row in rows if row["split"] in ("validation", "test")]
    assert sorted(chain.clips.clip_id) == sorted(row["clip_id"] for row in scored)
    for place, clip_id in enumerate(chain.clips.clip_id):
        row = next(row for row in rows if row["clip_id"] == clip_id)
        link = "video_only"
        if row["keep_real"]:
            link = "real_audio"
        elif row["keep"]:
            link = "mapped_validated"
        own = answers[link].clips.clip_id.tolist().index(clip_id)
        expected = answers[link].probabilities[:, own]
        assert np.array_equal(chain.probabilities[:, place], expected)


def test_the_chain_needs_all_its_links():
    both = ("semantic_validation", "caption_mapping")
    assert recommended.is_available(LINKS, both)
    assert not recommended.is_available(LINKS[1:], both)
    assert not recommended.is_available(LINKS, both[:1])
    assert not recommended.is_available((*LINKS, "recommended"), both)
