"""Signals: SIGTERM and SIGINT end a run after its step, with a checkpoint; a second one ends it at once."""

import os
import signal
import threading
from collections.abc import Callable

# SDL (pygame) takes SIGTERM and SIGINT for itself when it first draws; this, set before, keeps it from that
os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")

_standing: list["Interrupts"] = []  # whose handlers stand


class Interrupts:
    """Notes a signal instead of dying of it. Outside the main thread, where Python allows no handlers, it notes none.

    `received` is the signal's number, None until there is one, and where the run is done anyway.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._noted, self._done = False, False  # a signal; the last step
        self._before: dict[int, Callable | int | None] = {}
        put_back()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
            _standing.append(self)

    def _note(self, number: int, frame: object) -> None:
        if self._noted:
            os._exit(128 + number)  # not by the default action, which process 1 of a container does not have
        self._noted, self.received = True, None if self._done else number
        when = "is at its end" if self._done else "ends after this step"
        print(f"\n{signal.Signals(number).name}: the run {when} (once more: at once)", flush=True)

    def last_step_done(self) -> None:
        """From here on a signal interrupts nothing, nor did one that came before; a second one still ends the run."""
        self._done, self.received = True, None

    def put_back(self) -> None:
        """Let the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()


def put_back() -> None:
    """Put back whichever handlers stand: of a run that ended with an error, in a process that goes on."""
    while _standing:
        _standing.pop().put_back()
