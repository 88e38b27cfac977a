"""The one exception that users are meant to read."""


class PocketError(ValueError):
    """Something the user can mend.

    The message is one clear line: it names the file or config key, says what was found and what was expected, and how
    to mend it. The command line prints it without a traceback and exits with status 1.
    """
