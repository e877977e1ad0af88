"""Run hostile inputs through the command line and judge each end: what a stranger's file may never do.

An `Attempt` is a command line with the files it needs. `Harness.run` writes them into a box of their own, has a worker
run the command there, and returns what was wrong: nothing, or `Fault`s.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")

MAX_SECONDS = 20.0  # of the processor, or of waiting for something that never comes
MAX_WALL = 90.0  # on a machine that does other things as well
MAX_BYTES = 2 << 30
MAX_SENTENCE = 600  # characters of an error or a hint
MAX_OUTPUT = 1 << 20  # bytes that are looked at
RENEW = 1 << 30  # bytes of a worker that is replaced
PLAIN = {"OMP_NUM_THREADS": "1", "SPHERECTL_KERNELS": "0"}  # what a command computes with

# What a terminal obeys: C0 but for line ends and tabs, DEL, C1, marks of direction, line separators.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
WARNING = re.compile(r"^.*(?:\b[A-Z]\w*Warning\b|warnings\.warn|^WARNING\b).*$", re.MULTILINE)
RAW = re.compile(r"\[Errno|errors\.pydantic\.dev|PosixPath\(|<class '|object at 0x")

File = bytes | Callable[[Path], None]


@dataclass(frozen=True)
class Attempt:
    """One input.

    Attributes:
        kind: the generator that made it.
        argv: what follows `spherectl`; `{work}` is the folder that it runs in.
        files: contents by name below that folder; or what makes the file, such as `fifo`.
        env: further variables.
        wrong: whether the input is known to be wrong, so that success is a fault.
    """

    kind: str
    argv: tuple[str, ...]
    files: dict[str, File] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    wrong: bool = False

    def __repr__(self) -> str:
        sizes = {name: len(file) if isinstance(file, bytes) else "special" for name, file in self.files.items()}
        return f"{self.kind}: {' '.join(self.argv)!r:.2000} {sizes} {self.env}"


@dataclass(frozen=True)
class Fault:
    """What was wrong with an end: the promise that it broke, where it came from, what was seen."""

    promise: str
    where: str
    seen: str


# Files that are none


def fifo(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def folder(path: Path) -> None:
    """A folder in the place of a file."""
    path.mkdir()


def link(target: str) -> Callable[[Path], None]:
    """A symbolic link: to a device, to itself, to nothing."""
    return lambda path: path.symlink_to(target)


def absent(_path: Path) -> None:
    """Nothing at all."""


class Harness:
    """A worker, its boxes, and what it is asked.

    Args:
        scratch: a folder for the boxes; each is gone once its end is judged, unless `keep` says otherwise.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.ran = 0
        self.code: int | None = None  # of the last command; None where it was killed
        self.said = ""  # by it on stderr
        self._worker: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, attempt: Attempt, keep: Path | None = None) -> list[Fault]:
        """Run it and judge its end.

        Args:
            attempt: an input.
            keep: where the box goes if there was a fault.

        Returns:
            Every fault; none where all went well.
        """
        self.ran += 1
        box = self.scratch / f"box{self.ran}"
        try:
            argv, environment = self._prepare(box, attempt)
            before = _listing(box)
            answer = self._ask({"argv": argv, "folder": str(box / "work"), "environment": environment})
            self.code, self.said = answer.get("code"), self._read("err")
            faults = list(self._judge(attempt, answer, box, before))
            if faults and keep is not None:
                shutil.rmtree(keep, ignore_errors=True)
                keep.parent.mkdir(parents=True, exist_ok=True)
                _thin(box)
                shutil.move(box, keep)
                about = {"kind": attempt.kind, "argv": argv, "env": attempt.env, "answer": answer}
                told = {"faults": [vars(fault) for fault in faults], "stderr": self.said[:4000]}
                (keep / "about.json").write_text(json.dumps(about | told, indent=1, default=str))
            return faults
        finally:
            shutil.rmtree(box, ignore_errors=True)

    def _prepare(self, box: Path, attempt: Attempt) -> tuple[list[str], dict[str, str]]:
        work = box / "work"
        for name in ("work", "home", "tmp"):
            (box / name).mkdir(parents=True)
        for name, content in attempt.files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
        home, scratch = str(box / "home"), str(self.scratch)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPHERECTL_", "COV_"))}
        kept |= {"HOME": home, "TMPDIR": str(box / "tmp"), "MPLCONFIGDIR": scratch, "NO_COLOR": "1", "COLUMNS": "120"}
        kept |= {f"XDG_{name.upper()}_HOME": f"{home}/{name}" for name in ("cache", "config", "data")}
        kept |= {"SPHERECTL_OFFLINE": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1", **PLAIN}
        given = {name: value.replace("{work}", str(work)) for name, value in attempt.env.items()}
        return [word.replace("{work}", str(work)) for word in attempt.argv], kept | given

    def _judge(self, attempt: Attempt, answer: dict[str, Any], box: Path, before: dict[str, Any]) -> Iterator[Fault]:
        out, err = self._read("out"), self.said
        where = " ".join((answer.get("end") or {}).values()) or answer.get("stack", "")
        last = (err.strip().splitlines() or [""])[-1]
        error = next((line for line in err.splitlines() if line.startswith("error:")), last)

        def fault(promise: str, seen: str = error) -> Fault:
            return Fault(promise, where, seen[:300])

        if answer.get("died"):
            yield fault(answer["died"])
            return
        if answer["seconds"] > MAX_SECONDS and answer["cpu"] > MAX_SECONDS:
            yield fault("hangs", f"{answer['seconds']:.0f} s")
        if answer["peak"] > MAX_BYTES:
            yield fault("memory", f"{answer['peak'] >> 20} MB")
        if "Traceback" in err or answer["code"] == 99:
            yield fault("traceback", last)
        if "Unexpected error" in err:
            yield fault("unexpected error")
        elif answer["code"] not in {0, 1, 2}:
            yield fault("exit code", f"{answer['code']} {error}")
        for name, text in (("stdout", out), ("stderr", err)):
            if found := CONTROL.search(text):
                yield fault("control character", f"{name}: {text[max(0, found.start() - 80) : found.end() + 80]!r}")
        if found := WARNING.search(err):
            yield fault("library warning", found[0])
        if found := RAW.search(err):
            yield fault("raw text", err[max(0, found.start() - 100) : found.end() + 100])
        # Several mistakes are told together, with semicolons between.
        if any(len(part) > MAX_SENTENCE for line in err.splitlines() for part in line.split("; ")):
            yield fault("long message", f"{max(map(len, err.splitlines()))} characters: {error[:200]}")
        if answer["code"] in {1, 2}:
            sentences = sum(line.startswith("error:") for line in err.splitlines())
            if sentences != 1:
                yield fault("one sentence", f"{sentences} of them: {err[:200]!r}")
        if answer["code"] == 0 and attempt.wrong:
            yield fault("wrong success", f"{out[:100]!r} {err[:100]!r}")
        if answer["started"]:
            yield fault("starts a program", "; ".join(answer["started"]))
        left = _left(before, _listing(box), failed=answer["code"] != 0)
        # A training that is stopped by a bad image goes on in its folder once that is mended.
        runs = ["work/runs", *(f"work/{run}" for word, run in pairwise(attempt.argv) if word == "--run-dir")]
        # A result may be asked for under a hidden name, and the sheet of its steps lies beside it.
        outs = [Path(word).stem for option, word in pairwise(attempt.argv) if option in {"--out", "-o"}]
        named = tuple(stem for stem in outs if stem.startswith(".") and answer["code"] == 0)
        others = [name for name in left if not name.startswith(tuple(runs)) and not Path(name).name.startswith(named)]
        yield from (fault("leaves a file", name) for name in others[:3])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer, or how it died."""
        worker = self._worker or self._start()
        assert worker.stdin is not None
        began, cpu = time.monotonic(), _cpu_s(worker.pid)
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        while not select.select([worker.stdout], [], [], 0.5)[0]:
            wall, used = time.monotonic() - began, _cpu_s(worker.pid) - cpu
            if used > MAX_SECONDS or wall > MAX_WALL or (wall > MAX_SECONDS and used < 1):
                worker.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                self._stop()
                return {"died": "hangs", "stack": _own_frame(self._read("stack"))}
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            code = worker.wait()
            self._stop()
            return {"died": f"crash, exit {code}"}
        answer: dict[str, Any] = json.loads(line) | {"cpu": _cpu_s(worker.pid) - cpu}
        if answer["rss"] > RENEW:
            self._stop()
        return answer

    def _start(self) -> subprocess.Popen[str]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        files = [str(self.scratch / name) for name in ("out", "err", "stack")]
        worker = subprocess.Popen(
            [sys.executable, str(WORKER), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.scratch / "worker").open("w"),
            cwd=self.scratch,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(self.scratch), **PLAIN},
            text=True,
            encoding="ascii",
        )
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != '"ready"':
            raise RuntimeError(f"The worker did not start: {(self.scratch / 'worker').read_text()[-2000:]}")
        self._worker = worker
        return worker

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            for stream in (self._worker.stdin, self._worker.stdout):
                with contextlib.suppress(OSError):
                    assert stream is not None
                    stream.close()
            self._worker = None

    def _read(self, name: str) -> str:
        with contextlib.suppress(OSError), (self.scratch / name).open("rb") as file:
            return file.read(MAX_OUTPUT).decode("utf-8", "backslashreplace")
        return ""


def _cpu_s(pid: int) -> float:
    """Seconds that a process has had the processor."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _own_frame(stack: str) -> str:
    """The innermost frame of spherectl in a stack as faulthandler writes it, of the last stack in the file."""
    last = stack.rpartition("(most recent call first)")[2]
    found = re.search(r'/spherectl/(\S+)", line \d+ in (\S+)', last)
    return f"{found[1]}:{found[2]}" if found else ""


def _listing(box: Path) -> dict[str, Any]:
    """What is in a box, by name: time of change and size of files; None of folders."""
    found: dict[str, Any] = {}
    for place, folders, files in os.walk(box):
        here = Path(place).relative_to(box)
        found |= {str(here / name): None for name in folders}
        for name in files:
            told = Path(place, name).lstat()
            found[str(here / name)] = (told.st_mtime_ns, told.st_size)
    return found


def _left(before: dict[str, Any], after: dict[str, Any], *, failed: bool) -> list[str]:
    """What a command must not leave: after a failure anything new or changed; after success what is temporary."""
    changed = [name for name, told in after.items() if name not in before or before[name] != told]
    gone = [f"{name} is gone" for name in before if name not in after]
    if failed:  # what was fetched or computed well before stays in the cache
        return [name for name in changed if not name.startswith("home/cache")] + gone
    return [name for name in changed if re.search(r"\.tmp|\.part|\.new|/\.[^/]*$|^tmp/", name) and "lock" not in name]


def _thin(box: Path) -> None:
    """Cut what is huge, so that a kept box is small."""
    for place, _folders, files in os.walk(box):
        for name in files:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size > 64 << 20:
                path.unlink()
