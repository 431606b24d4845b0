"""The one exception for what a user can mend, and text that is safe to print."""


class UserError(Exception):
    """A fault in what the user gave: the text says what, where, and what to do; stages print it without a trace."""


def printable(text: str) -> str:
    """Text that may come from a file or its name, with control characters written out: it cannot command a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
