"""The harness sees what it is there to see: each promise is broken once, by a command made for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hostile import bases
from tests.hostile.harness import Attempt, Harness, fifo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the worker's memory is read as Linux tells it"),
]

# Put in the place of the command `recipes show`, in a worker of its own.
BROKEN = """
import subprocess, sys, time

WAYS = {
    "unexpected error": lambda: 1 / 0,
    "exit code": lambda: sys.exit(5),
    "control character": lambda: print("\\x1b[31mred"),
    "library warning": lambda: print("x.py:1: UserWarning: old", file=sys.stderr),
    "raw text": lambda: print("[Errno 2] no", file=sys.stderr),
    "long message": lambda: print("x" * 700, file=sys.stderr),
    "starts a program": lambda: subprocess.run(["true"]),
    "leaves a file": lambda: open("a.tmp", "w").close(),
    "memory": lambda: b"x" * (700 << 20),
    "hangs": lambda: time.sleep(600),
    "wrong success": lambda: None,
    "one sentence": lambda: sys.exit(1),
}
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A harness whose worker has the commands above in the place of `recipes show NAME`."""
    from tests.hostile import harness as module

    text, made = module.WORKER.read_text(), "    command = get_command(app)"
    assert made in text
    swapped = f"{made}\n    exec({BROKEN!r}, globals())\n"
    swapped += '    command.commands["recipes"].commands["show"].callback = lambda name: WAYS[name]()\n'
    worker = tmp_path / "worker.py"
    worker.write_text(text.replace(made, swapped))
    monkeypatch.setattr(module, "WORKER", worker)
    monkeypatch.setattr(module, "MAX_SECONDS", 3.0)
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 30)
    return Harness(tmp_path / "scratch")


WAYS = [line.split('"')[1] for line in BROKEN.splitlines() if line.startswith('    "')]


def test_each_broken_promise_is_seen(broken: Harness) -> None:
    seen = {}
    with broken:
        for way in WAYS:
            faults = broken.run(Attempt(way, ("recipes", "show", way), wrong=way == "wrong success"))
            seen[way] = {fault.promise for fault in faults}
    assert [way for way in WAYS if way not in seen[way]] == [], seen


def test_nothing_outside_of_the_box_is_written(harness: Harness, tmp_path: Path) -> None:
    out = tmp_path / "o.png"
    argv = ("sample", "--model", "m.safetensors", "--count", "1", "--steps", "1", "--out", str(out))
    assert harness.run(Attempt("outside", argv, {"m.safetensors": bases.tiny()})) == []
    assert not out.exists()


def test_a_fault_keeps_its_files(harness: Harness, tmp_path: Path) -> None:
    argv = ("sample", "--model", "m.safetensors", "--count", "1", "--steps", "1", "--out", "o.png")
    faults = harness.run(
        Attempt("kept", argv, {"m.safetensors": bases.tiny(), "p": fifo}, wrong=True), tmp_path / "kept"
    )
    assert [fault.promise for fault in faults] == ["wrong success"]
    assert (tmp_path / "kept" / "work" / "m.safetensors").read_bytes() == bases.tiny()
    assert (tmp_path / "kept" / "about.json").is_file()
