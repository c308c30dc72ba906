"""The errors that are meant for the user."""


class TrakError(Exception):
    """Something about the input, a setting or a file is wrong, and the message says what to do.

    The command line prints it without a traceback. Any other exception is a bug of ours.
    """


class NotFetchedError(TrakError):
    """Something of the hub is wanted, and cannot be had now."""
