"""Whether a run's figures are those that were committed."""

import subprocess

from audio_from_video.storage import layout

NAMED = 3  # differing files that the sentence names


def comparison_with_commit() -> str | None:
    """Return a sentence that compares the metrics files with those of the last commit.

    None where there is nothing to compare with: no Git, no repository, no commit.
    """
    command = ["git", "diff", "--name-only", "--relative", "HEAD", "--", str(layout.METRICS)]
    try:
        process = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    if process.returncode:
        return None

    files = process.stdout.splitlines()
    if not files:
        return "The figures of this run are the committed ones, byte by byte."
    names = ", ".join(files[:NAMED]) + (", ..." if len(files) > NAMED else "")
    return (
        f"{len(files)} files below {layout.METRICS}/ differ from the committed ones ({names}); "
        f"`git diff --stat {layout.METRICS}` lists them"
    )
