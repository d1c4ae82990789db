"""The one error type that users see."""


class KryptonError(Exception):
    """Something the caller can mend: names what is wrong, where, and what to do.

    The command line prints the message as one sentence and exits with status 2.
    """
