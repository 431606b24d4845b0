"""The words that everything shares: splits, architectures and their conditions."""

from dataclasses import dataclass

SPLITS = ("training", "unlabelled", "validation", "test")
LABELLED = ("training", "validation", "test")  # splits whose clips have an action
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Architecture:
    """A way to generate audio features, and the conditions (rows of the main table) that use them.

    number: as in the research description.  generated: the condition that takes the generated
    audio of all clips.  filtered: the one that takes what passed the feature filter.
    """

    name: str
    number: int
    generated: str
    filtered: str

    @property
    def title(self) -> str:
        """Name for headings, such as "1: semantic validation"."""
        return f"{self.number}: {self.name.replace('_', ' ')}"


SEMANTIC_VALIDATION = "semantic_validation"
CAPTION_MAPPING = "caption_mapping"
SHUFFLED = "shuffled"  # the control: a generator trained on the sound of other clips
ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(SEMANTIC_VALIDATION, 1, generated="generated", filtered="validated"),
        Architecture(CAPTION_MAPPING, 2, generated="mapped", filtered="mapped_validated"),
    )
}
