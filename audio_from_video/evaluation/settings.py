"""Settings of the named experiments, as they stand in params.yaml."""

from pydantic import Field

from audio_from_video.runtime import params

Value = str | int | float | bool


class Experiment(params.Section):
    """Settings to run, and what is read of each.

    conditions: those whose accuracies are read. generator: the one whose measures are read.
    missing_rates, filter: whether accuracies at missing rates and the filter's share are read.
    """

    conditions: list[str] = Field(min_length=1)
    generator: str = ""
    missing_rates: bool = False
    filter: bool = False
    settings: dict[str, dict[str, Value]] = Field(min_length=1)


class Timing(params.Section):
    """Stages whose time is taken, such as `generator caption_mapping`."""

    stages: list[str] = Field(min_length=1)


class Confirmation(params.Section):
    """One setting of everything, and the files that are kept."""

    setting: dict[str, Value]
    files: list[str] = Field(min_length=1)


class Experiments(params.Section):
    """The section `experiments` of params.yaml."""

    named: dict[str, Experiment | Timing | Confirmation]
