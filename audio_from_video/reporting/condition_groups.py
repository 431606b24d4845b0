"""The conditions in groups, each with a line that says what it is (`report.groups`)."""

from collections.abc import Iterable

OTHERS = "other conditions"

# By title: what each condition of the group is, in one line.
Groups = dict[str, dict[str, str]]


def arranged(groups: Groups, conditions: Iterable[str]) -> Groups:
    """Return the groups with those of `conditions` alone, and without empty groups.

    Conditions that no group names come last, without a definition.
    """
    remaining = list(conditions)
    result: Groups = {}
    for title, definitions in groups.items():
        present = {name: line for name, line in definitions.items() if name in remaining}
        remaining = [name for name in remaining if name not in present]
        if present:
            result[title] = present
    if remaining:
        result.setdefault(OTHERS, {}).update(dict.fromkeys(remaining, ""))
    return result


def definitions(groups: Groups) -> dict[str, str]:
    """Return the line of each condition, in the order of the groups."""
    return {name: line for group in groups.values() for name, line in group.items()}
