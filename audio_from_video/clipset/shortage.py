"""What a data set is short of.  It ends no run, but whoever reads the figures should know it."""

from dataclasses import dataclass

from audio_from_video.runtime.errors import printable

FEW_TRAINING_CLIPS = 10
NAMES_IN_SENTENCE = 5


@dataclass(frozen=True)
class Shortage:
    """Actions with training clips (`actions`), and those of them that are short of something.

    one_source: all clips to learn from are of one source, so that validation gets none.
    no_validation_clip: there is none, though there are several sources.
    few_training_clips: less than FEW_TRAINING_CLIPS, validation not counted.
    """

    actions: list[str]
    one_source: list[str]
    no_validation_clip: list[str]
    few_training_clips: list[str]

    def figures(self) -> dict[str, int]:
        """Return how many actions are short of what."""
        return {
            "sources": len(self.one_source),
            "validation_clips": len(self.no_validation_clip),
            "training_clips": len(self.few_training_clips),
        }

    def sentences(self) -> list[str]:
        """Return a sentence for each kind of shortage that there is."""
        total = len(self.actions)
        sentences = []
        if self.one_source:
            sentences.append(
                f"{len(self.one_source)} of {total} actions have clips of one source only, so "
                f"none for validation ({_some(self.one_source)}): nothing is chosen by them"
            )
        if self.no_validation_clip:
            sentences.append(
                f"{len(self.no_validation_clip)} of {total} actions have no validation clip "
                f"({_some(self.no_validation_clip)}): nothing is chosen by them"
            )
        if self.few_training_clips:
            sentences.append(
                f"{len(self.few_training_clips)} of {total} actions have fewer than "
                f"{FEW_TRAINING_CLIPS} training clips ({_some(self.few_training_clips)}): "
                "their accuracies depend on chance"
            )
        return sentences


def shortage(clips: list[dict]) -> Shortage:
    """Return what the actions are short of; clips: rows with action, split, source_id, status."""
    ok = [clip for clip in clips if clip["status"] == "ok"]
    training = [clip for clip in ok if clip["split"] == "training"]
    validation = [clip for clip in ok if clip["split"] == "validation"]
    actions = sorted({clip["action"] for clip in training})
    one_source = []
    no_validation_clip = []
    few_training_clips = []
    for action in actions:
        own = [clip for clip in training if clip["action"] == action]
        held_out = [clip for clip in validation if clip["action"] == action]
        if len({clip["source_id"] for clip in own + held_out}) == 1:
            one_source.append(action)
        elif not held_out:
            no_validation_clip.append(action)
        if len(own) < FEW_TRAINING_CLIPS:
            few_training_clips.append(action)
    return Shortage(actions, one_source, no_validation_clip, few_training_clips)


def _some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:NAMES_IN_SENTENCE])
    more = len(names) - NAMES_IN_SENTENCE
    return f"{shown} and {more} more" if more > 0 else shown
