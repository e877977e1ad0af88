"""Where the time of a command goes: seconds by stage, as `sample --profile` shows them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_IMPORTED = time.perf_counter()


class Stopwatch:
    """Seconds by stage. Every moment belongs to one stage, the innermost that is open, so they sum to the whole.

    It watches one thread: work beside it counts only as the stage in which this thread waits for it.

    Args:
        outside: name of the stage of all moments outside the others.
        before: seconds that stages took before it was made.
    """

    def __init__(self, outside: str, before: Mapping[str, float] | None = None) -> None:
        self._seconds = dict(before or {})
        self._open = [outside]
        self._last = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the body takes as the stage of that name, and not as the one around it."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def timed(self, name: str, function: Callable[P, R], finish: Callable[[], object] | None = None) -> Callable[P, R]:
        """The function, each call of which is a stage.

        Args:
            name: of the stage.
            function: what to call.
            finish: waits for a device to finish what it was given, which is else counted where its result is needed.
        """

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if finish is not None:
                finish()
            with self.stage(name):
                result = function(*args, **kwargs)
                if finish is not None:
                    finish()
            return result

        return call

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage until now."""
        self._count()
        return dict(self._seconds)

    def _count(self) -> None:
        now = time.perf_counter()
        name = self._open[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now


def process_age() -> float:
    """Seconds since this process began; since this file was imported where the system is not Linux, which tells it."""
    try:
        # Fields of proc_pid_stat(5) from the third on, after a name that may hold anything; `starttime` is the 22nd.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED
