"""The one exception for what a user can mend."""


class UserError(Exception):
    """A fault in what the user gave: the text says what, where, and what to do; stages print it without a trace."""
