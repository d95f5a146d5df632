"""One exception for everything a user can put right."""


class LorajaxError(ValueError):
    """Bad input: the message names the file, line, key or flag, what was found and what was expected.

    Commands print the message without a traceback and leave with exit code 2.
    """
