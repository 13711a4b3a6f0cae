"""The one error a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is wrong. One message: the file, the row, the value, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
