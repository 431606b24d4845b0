"""Whether a run's figures are those that were committed."""

from pathlib import Path

from audio_from_video.reporting import git
from audio_from_video.reporting.provenance import without_provenance
from audio_from_video.storage import layout

NAMED = 3  # differing files that the sentence names
PLACES = (str(layout.METRICS), str(layout.RESULTS_PAGE))
# Pages that say when and where they were made: every run writes other lines there.
PAGES = (str(layout.TABLES_PAGE), str(layout.RESULTS_PAGE))


def comparison_with_commit() -> str | None:
    """Return a sentence that compares metrics and results with those of the last commit.

    The lines that say when and where a run was made do not count.  None where there is nothing to
    compare with: no Git, no repository, no committed metrics.
    """
    if not git.lines("ls-tree", "-r", "--name-only", "HEAD", "--", str(layout.METRICS)):
        return None
    changed = git.changed(*PLACES)
    if changed is None:
        return None

    files = [path for path in changed if not has_committed_figures(path)]
    if not files:
        return (
            "The figures of this run are the committed ones, byte by byte "
            "(but for the lines with its date, commit and machine)."
        )
    names = ", ".join(files[:NAMED]) + (", ..." if len(files) > NAMED else "")
    places = " and ".join(PLACES)
    return (
        f"{len(files)} files of {places} differ from the committed ones ({names}); "
        f"`git status {' '.join(PLACES)}` lists them"
    )


def has_committed_figures(path: str) -> bool:
    """Return whether a changed file differs from the committed one in lines of provenance alone."""
    if path not in PAGES or not Path(path).is_file():
        return False
    committed = git.committed(path)
    if committed is None:
        return False
    return without_provenance(committed) == without_provenance(Path(path).read_text())
