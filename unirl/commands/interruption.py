"""Ctrl-C and SIGTERM as a message that says how to go on."""


class TrainingInterruptedError(Exception):
    """A signal stopped the training; the text says how to continue.

    The command line exits with `code`: 130 for Ctrl-C, 143 for SIGTERM, as shells report such ends.
    """

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code
