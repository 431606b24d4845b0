"""Compare the main conditions of the last run with those of a commit, a line each.

    python -m tools.compare            with the last commit
    python -m tools.compare main~3     with another commit, a branch or an experiment of DVC

The main conditions are those of the README's table.
`dvc metrics diff REVISION -R --targets metrics` lists every figure.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from audio_from_video.reporting.results_page import README_CONDITIONS
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout

Figures = dict[str, Any]  # accuracy in 0..1 on test clips: mean, ci95_low, ci95_high, n
NONE = "-"


def figures_of_run() -> dict[str, Figures]:
    """Return the accuracy of each main condition that the last run measured."""
    figures = {}
    for name in README_CONDITIONS:
        path = layout.metrics("classifier", name)
        if path.is_file():
            figures[name] = json.loads(path.read_text())["accuracy"]
    return figures


def figures_of_commit(commit: str) -> dict[str, Figures]:
    """Return the accuracy of each main condition that a commit holds."""
    figures = {}
    for name in README_CONDITIONS:
        shown = git("show", f"{commit}:./{layout.metrics('classifier', name)}")
        if shown.returncode == 0:
            figures[name] = json.loads(shown.stdout)["accuracy"]
    return figures


def commit_of(revision: str) -> str:
    """Return the commit of a revision of Git, or of an experiment of DVC by its name.

    Raises UserError where there is none.
    """
    found = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").stdout
    if not found:
        pattern = f"refs/exps/*/*/{revision}"
        found = git("for-each-ref", "--format=%(objectname)", pattern).stdout
    if not found:
        raise UserError(
            f"'{revision}' is no commit, no branch and no experiment "
            "(`git log` and `dvc exp list` name them)"
        )
    return found.split()[0]


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Git; the caller looks at its status."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True)


def comparison(revision: str, before: dict[str, Figures], after: dict[str, Figures]) -> list[str]:
    """Return the lines to print: a heading, a line for each main condition, and the clips.

    Raises UserError where one of both has no figures.
    """
    if not after:
        raise UserError(f"{layout.METRICS}/classifier has no main condition: run `dvc repro` first")
    if not before:
        raise UserError(f"{revision} holds no figures of the main conditions")
    lines = [f"{'accuracy, %':18s} {revision[:20]:>20s} {'last run':>20s}   change"]
    for name in README_CONDITIONS:
        old = before.get(name)
        new = after.get(name)
        change = NONE
        if old and new:
            points = round(100 * (new["mean"] - old["mean"]), 1)
            change = f"{points + 0.0:+.1f}"  # -0.0 becomes +0.0
        lines.append(f"{name:18s} {estimate(old):>20s} {estimate(new):>20s}   {change:>6s}")
    lines.append(clips_line(before, after))
    return [printable(line) for line in lines]


def estimate(figures: Figures | None) -> str:
    """Return an accuracy with its interval, per cent."""
    if figures is None:
        return NONE
    mean, low, high = (100 * figures[key] for key in ("mean", "ci95_low", "ci95_high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def clips_line(before: dict[str, Figures], after: dict[str, Figures]) -> str:
    """Return how many test clips both stand for."""
    old = next(iter(before.values()))["n"]
    new = next(iter(after.values()))["n"]
    if old != new:
        return f"{old} test clips before and {new} now: the change is not one of the same clips"
    return f"{new} test clips; the intervals are those of each accuracy, not of the change"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "revision", nargs="?", default="HEAD", help="a commit, a branch or an experiment of DVC"
    )
    revision = parser.parse_args().revision
    try:
        lines = comparison(revision, figures_of_commit(commit_of(revision)), figures_of_run())
    except UserError as error:
        sys.exit(f"compare: error: {printable(str(error))}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
