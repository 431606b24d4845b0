"""The figures of a report about the conditions: its tables, figures and texts come from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from audio_from_video.evaluation.rows import (
    ALL_CLIPS,
    BASELINE,
    ConditionAnswers,
    ConditionFigures,
    Contrast,
)


class ConditionSettings(Protocol):
    """What a report needs to know of a condition; classification.settings.Condition has it."""

    @property
    def train_audio(self) -> str:
        """The kind of audio in training."""

    @property
    def test_audio(self) -> str:
        """The kind of audio at test."""

    @property
    def audio_at_test(self) -> str:
        """Where a test clip's audio comes from: real, generated or none."""

    @property
    def leaky(self) -> bool:
        """Whether it knows the true action of test clips."""

    @property
    def kept_only(self) -> bool:
        """Whether it answers only the clips that the filter keeps."""


@dataclass(frozen=True)
class LookAlikePairs:
    """Figures of actions that look alike and sound different.

    accuracy, difference: estimates by condition and group of actions; the difference is to the
    baseline.  read_out: figures by input, what was learned from and pair.
    """

    accuracy: dict[str, dict[str, dict]]
    difference: dict[str, dict[str, dict]]
    read_out: dict[str, dict[str, dict[str, dict]]]


@dataclass(frozen=True)
class Results:
    """Everything that was measured of the conditions, by condition in the order of params.yaml.

    root: the data set.  settings: of each condition.  answers: what it answered on test.
    figures: accuracies and differences by subset.  checks: what the differences are worth.
    classifier_metrics: its metrics file.  missing_rates: accuracy by rate, per cent as text.
    missing_rate_differences: the same minus the baseline's, of the other conditions.
    action_accuracy: estimates by action.  contrasts: differences to other conditions than the
    baseline.  audio_visual: actions on the user's list of audible ones,
    None without a list.  pairs: None for data sets without look-alike actions.
    """

    root: str
    settings: Mapping[str, ConditionSettings]
    answers: dict[str, ConditionAnswers]
    figures: dict[str, ConditionFigures]
    checks: dict[str, dict]
    classifier_metrics: dict[str, dict]
    missing_rates: dict[str, dict[str, dict]]
    missing_rate_differences: dict[str, dict[str, dict]]
    action_accuracy: dict[str, dict[str, dict]]
    contrasts: Sequence[Contrast] = ()
    audio_visual: set[str] | None = None
    pairs: LookAlikePairs | None = None

    def accuracy(self, condition: str) -> dict:
        """Return the estimate of a condition's accuracy on all test clips that it answers."""
        return self.figures[condition].accuracy[ALL_CLIPS]

    def difference(self, condition: str) -> dict | None:
        """Return the paired difference to the baseline, in fractions; None of the baseline."""
        return self.figures[condition].difference.get(ALL_CLIPS)

    def sample_size(self, condition: str) -> str:
        """Return the clips, sources and seeds behind its figures, such as 480 / 204 / 3."""
        return sample_size(self.accuracy(condition), self.answers[condition].seeds)

    @property
    def others(self) -> list[str]:
        """The conditions but the baseline."""
        return [name for name in self.figures if name != BASELINE]


def sample_size(estimate: dict, seeds: int) -> str:
    """Return the clips, sources and seeds behind an estimate, such as 480 / 204 / 3."""
    return f"{estimate['n']} / {estimate['sources']} / {seeds}"
