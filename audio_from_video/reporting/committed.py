"""Whether a run's figures are those that were committed."""

import subprocess

from audio_from_video.storage import layout

NAMED = 3  # differing files that the sentence names


def comparison_with_commit() -> str | None:
    """Return a sentence that compares the metrics files with those of the last commit.

    None where there is nothing to compare with: no Git, no repository, no committed metrics.
    """
    metrics = str(layout.METRICS)
    if not _git("ls-tree", "-r", "--name-only", "HEAD", "--", metrics):
        return None
    status = _git("status", "--porcelain", "--untracked-files=all", "--", metrics)
    if status is None:
        return None

    files = [line[3:] for line in status]
    if not files:
        return "The figures of this run are the committed ones, byte by byte."
    names = ", ".join(files[:NAMED]) + (", ..." if len(files) > NAMED else "")
    return (
        f"{len(files)} files below {layout.METRICS}/ differ from the committed ones ({names}); "
        f"`git status {layout.METRICS}` lists them"
    )


def _git(*arguments: str) -> list[str] | None:
    """What Git prints, by line; None where it is not there or refuses."""
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return process.stdout.splitlines() if process.returncode == 0 else None
