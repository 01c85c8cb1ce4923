"""Ctrl-C and termination while training: finish the iteration, save, stop."""

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the user, and whoever shuts the machine down


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after its state was saved; the exit code is 128 + `signal`."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Interruption:
    """Within this context the first signal is only remembered, in `asked`; a second one stops at once.

    Outside the main thread signals are the business of whoever runs us, and nothing is changed.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def obey(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.asked is not None:
            raise Interrupted(self.asked)

    def __enter__(self) -> "Interruption":
        try:
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise Interrupted(number)
        self.asked = number
