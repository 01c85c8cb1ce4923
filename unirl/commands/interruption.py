"""Ctrl-C as a message that says how to go on."""


class TrainingInterruptedError(Exception):
    """The user pressed Ctrl-C; the text says how to continue. The command line exits with code 130."""
