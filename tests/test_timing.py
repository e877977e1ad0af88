"""The stopwatch against a clock that the test turns, and the age of a process against its parent's clock."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from spherectl.timing import Stopwatch


@pytest.fixture
def turn(monkeypatch):
    """`turn(seconds)` lets the clock run on; it begins at 100."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def run_on(seconds: float) -> None:
        now[0] += seconds

    return run_on


@pytest.mark.fast
def test_every_moment_belongs_to_the_innermost_stage(turn):
    watch = Stopwatch("rest", {"start": 0.5, "inner": 0.0})
    turn(1)
    with watch.stage("outer"):
        turn(2)
        for _ in range(3):
            with watch.stage("inner"):
                turn(4)
        turn(8)
        with watch.stage("outer"):
            turn(16)
    turn(32)
    assert watch.seconds() == {"start": 0.5, "inner": 12, "rest": 33, "outer": 26}
    assert list(watch.seconds()) == ["start", "inner", "rest", "outer"]
    turn(64)
    assert watch.seconds()["rest"] == 97


@pytest.mark.fast
def test_a_device_is_waited_for_on_both_sides_of_a_call(turn):
    """What it still had to do belongs to the stage around, what the call gave it to the call."""
    due = [8.0]

    def finish() -> None:
        turn(due.pop() if due else 0)

    def call(a: int, *, b: int) -> int:
        turn(1)
        due.append(4.0)
        return a + b

    watch = Stopwatch("rest")
    assert watch.timed("call", call, finish)(2, b=3) == 5
    assert watch.seconds() == {"rest": 8, "call": 5}
    assert watch.timed("call", call)(2, b=3) == 5
    assert watch.seconds() == {"rest": 8, "call": 6}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began")
def test_age_counts_from_the_start_of_the_process():
    """The second before the import belongs to it; its parent, who started it, has seen no less."""
    code = "import time; time.sleep(1); from spherectl.timing import process_age; print(process_age())"
    began = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tick = 0.01
    assert 1 <= float(told.stdout) <= time.perf_counter() - began + tick
