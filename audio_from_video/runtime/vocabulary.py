"""The words that everything shares: splits, architectures, conditions."""

ARCHITECTURES = {
    "validation": ("generated", "validated"),
    "mapping": ("mapped", "mapped_validated"),
}  # rows: every clip, filtered
SPLITS = ("training", "unlabelled", "validation", "test")
LABELLED = ("training", "validation", "test")
