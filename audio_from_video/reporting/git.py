"""What Git says of the working tree, where there is a Git and a repository that holds this code."""

import subprocess


def lines(*arguments: str) -> list[str] | None:
    """Return what a Git command prints, by line; None where Git is not there or refuses."""
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return process.stdout.splitlines() if process.returncode == 0 else None


def committed(path: str) -> str | None:
    """Return a file's text in the last commit; None where there is none.

    path: relative to the current folder, which may lie within a larger repository.
    """
    found = lines("show", f"HEAD:./{path}")
    return None if found is None else "\n".join(found) + "\n"


def changed(*paths: str) -> list[str] | None:
    """Return the files below `paths` that differ from the last commit, new ones included.

    paths, files: relative to the current folder.  None where there is no commit.
    """
    differing = lines("diff", "--name-only", "--relative", "HEAD", "--", *paths)
    new = lines("ls-files", "--others", "--exclude-standard", "--", *paths)
    if differing is None or new is None:
        return None
    return sorted({*differing, *new})
