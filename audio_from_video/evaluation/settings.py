"""Settings of the named experiments, as they stand in params.yaml."""

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from audio_from_video.runtime import params

Value = str | int | float | bool
ALL_SAMPLES = "all"  # in the column sample_seed of an experiment's table: a row over all samples


class Experiment(params.Section):
    """Settings to run, and what is read of each.

    conditions: those whose accuracies are read. generator: the one whose measures are read.
    missing_rates, filter: whether accuracies at missing rates and the filter's share are read.
    always: parameters that change in every setting, where the setting does not name them itself.
    baselines, controls, upper_bounds: by condition another one. They give its `gain` over the
    baseline, its `gain_over_control`, and its `gap_share`: gain / (upper bound - baseline).
    together: the name of a last setting that is not run, in which the test clips of all others
    count together. '' = none.
    samples: seeds of the rendered samples on each of which every setting is run. [] = the one that
    params.yaml names.
    """

    conditions: list[str] = Field(min_length=1)
    always: dict[str, Value] = {}
    baselines: dict[str, str] = {}
    controls: dict[str, str] = {}
    upper_bounds: dict[str, str] = {}
    together: str = ""
    samples: list[int] = []
    generator: str = ""
    missing_rates: bool = False
    filter: bool = False
    settings: dict[str, dict[str, Value]] = Field(min_length=1)

    @model_validator(mode="after")
    def _knows_what_it_compares(self) -> Self:
        for others in (self.baselines, self.controls, self.upper_bounds):
            unknown = {*others, *others.values()} - set(self.conditions)
            if unknown:
                raise ValueError(f"{', '.join(sorted(unknown))}: not among its conditions")
        without = (set(self.controls) | set(self.upper_bounds)) - set(self.baselines)
        if without:
            raise ValueError(f"{', '.join(sorted(without))}: no baseline")
        return self

    @model_validator(mode="after")
    def _knows_its_samples(self) -> Self:
        if len(set(self.samples)) < len(self.samples):
            raise ValueError("samples: one of them stands there twice")
        if self.samples and self.together:
            raise ValueError("together: counts clips of settings, which have several samples here")
        return self


class Timing(params.Section):
    """Stages whose time is taken, such as `generator caption_mapping`."""

    stages: list[str] = Field(min_length=1)


class Confirmation(params.Section):
    """One setting of everything, and the files that are kept."""

    setting: dict[str, Value]
    files: list[str] = Field(min_length=1)


def _kind(entry: Any) -> str:
    """The name of an entry's class, by the key that no other class has.

    entry: as it stands in the file, or checked already.
    """
    keys = entry if isinstance(entry, dict) else getattr(entry, "__dict__", {})
    if "stages" in keys:
        return "Timing"
    if "files" in keys:
        return "Confirmation"
    return "Experiment"


# The tag decides by which class an entry is checked, so that a mistake is told once.
Entry = Annotated[
    Annotated[Experiment, Tag("Experiment")]
    | Annotated[Timing, Tag("Timing")]
    | Annotated[Confirmation, Tag("Confirmation")],
    Discriminator(_kind),
]


class Experiments(params.Section):
    """The section `experiments` of params.yaml."""

    named: dict[str, Entry]


class SummaryParams(params.Section):
    """The section `summary` of params.yaml."""

    conditions: list[str] = Field(min_length=1)
