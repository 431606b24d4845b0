"""The exceptions for what a user can mend, and text that is safe to print."""


class UserError(Exception):
    """A fault in what the user gave; stages print its text without a trace.

    The text says what is wrong, where, and what to do.
    """


class DamagedStore(UserError):
    """Stored results were damaged and are set aside: the same work computes them anew."""


def printable(text: str) -> str:
    """Return text that cannot command a terminal: its control characters are written out.

    For text that may come from a stranger's file or from its name.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
