"""Signals that stop a training: it saves first."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from spherectl.cli import console

# What a signal makes a saved run end with. 75, "try again later" in sysexits.h, tells a job script to queue it again.
EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
if sys.platform != "win32":
    EXIT_CODES[signal.SIGUSR1] = 75  # Slurm's warning before the time is up: sbatch --signal=USR1@120
    EXIT_CODES[signal.SIGHUP] = 129  # the terminal is gone

# Within this time two Ctrl-C are one: torchrun and others pass on what the terminal has sent to all already.
SAME_PRESS_S = 1.0


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT, SIGTERM or SIGHUP instead of dying from it; Ctrl-C again ends at once.

    The handler writes nothing: it runs between two operations of the main thread, which may just be writing itself. A
    thread says what it has to say.
    """
    stopped: list[int] = []
    pressed: list[float] = []
    heard: SimpleQueue[bool] = SimpleQueue()

    def note(number: int, _frame: Any) -> None:
        if number == signal.SIGINT:
            pressed.append(time.monotonic())
            if stopped and (len(pressed) == 1 or pressed[-1] - pressed[0] > SAME_PRESS_S):
                raise KeyboardInterrupt
        stopped.append(number)
        heard.put(True)

    def tell() -> None:
        if heard.get():
            console.say("stopping: this step is finished and saved first (Ctrl-C again stops at once, unsaved)")

    before = {number: signal.signal(number, note) for number in EXIT_CODES if not _ignored_hangup(number)}
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        heard.put(False)
        teller.join(SAME_PRESS_S)


def _ignored_hangup(number: int) -> bool:
    """Whether this is SIGHUP under nohup, which asks to go on when the terminal is gone."""
    return sys.platform != "win32" and number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
