"""`python worker.py OUT ERR STACK`: run command lines of spherectl here, one after another.

A line of JSON on stdin is one command line: `argv`, the folder to run it in, its environment. A line of JSON on stdout
is its end: the exit code, what ended it, programs it started, its peak of memory. What it printed is in the files OUT
and ERR. Torch is imported once, so that a command costs milliseconds.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pickle.find_class",
)
OF_PYTHON = ("uname",)  # by `platform`, for the name of the processor
SPARE = 6 << 30  # bytes of address space beside what the imports took: who asks for more is told no, the machine lives
MAX_FILE = 1 << 30  # bytes of one file written

# What changes a file, and which of its arguments are paths. Nothing but the box may be changed: `--out /` of a command
# with a fault must not cost the machine it was found on.
CHANGES = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
}
CHANGES |= {"os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1)}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS = ("/dev/null", "/dev/tty", "/dev/shm/")

started: list[str] = []
box: list[str] = []
ends: list[dict[str, str]] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: remember the programs that are started, and classes that a pickle asks for."""
    if event in PROGRAMS and arguments[0] not in OF_PYTHON:
        started.append(f"{event} {arguments[0]!r}"[:200])
    if event == "open" and len(arguments) > 2 and isinstance(arguments[2], int) and arguments[2] & WRITES:
        guard(arguments[0], event)
    for number in CHANGES.get(event, ()):
        guard(arguments[number], event)


def guard(path: Any, event: str) -> None:
    """Refuse, as a system would, to change what lies outside of the box."""
    if not box or not isinstance(path, str | bytes | os.PathLike):
        return
    place = Path(os.fsdecode(path)).absolute()
    # A link's own place counts where it is renamed or removed, the place it leads to where it is written through.
    real = os.path.realpath(place.parent if event in CHANGES else place)
    if not f"{real}/".startswith(f"{box[0]}/") and not real.startswith(HARMLESS):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def note(error: BaseException) -> None:
    """Remember what ended a command, and where in spherectl."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/spherectl/" in frame.filename and "/cli/app" not in frame.filename]
    place = (own or list(frames) or [None])[-1]
    where = "" if place is None else f"{place.filename.rpartition('/spherectl/')[2]}:{place.name}"
    ends.append({"type": type(error).__name__, "where": where})


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def run(command: Any, argv: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> dict[str, Any]:
    """One command line, to its end."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    started.clear()
    ends.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    box[:] = [os.path.realpath(Path(folder).parent)]
    began, code = time.monotonic(), None
    with warnings.catch_warnings():  # each is shown again, as in a process of its own
        try:
            command.main(argv)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # noqa: BLE001 - it would be a traceback
            note(error)
            traceback.print_exc()
            code = 99
    box.clear()
    torch.set_num_threads(1)
    sys.stdout.flush()
    return {
        "code": code,
        "seconds": time.monotonic() - began,
        "peak": status("VmHWM"),
        "rss": status("VmRSS"),
        "started": started[:5],
        "end": ends[-1] if ends else None,
    }


def main() -> None:
    """Answer until stdin ends."""
    out, err, stack = sys.argv[1:]
    asked = os.fdopen(os.dup(0), encoding="ascii")
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file=Path(stack).open("w"), all_threads=False)  # noqa: SIM115

    import matplotlib.font_manager  # noqa: F401 - lists the system's fonts once, with a program of the system
    import torch
    from typer.main import get_command

    import spherectl.api
    import spherectl.training.loop  # noqa: F401
    from spherectl.cli import failures
    from spherectl.cli.app import app

    command = get_command(app)  # made once: it takes longer than many commands

    torch.set_num_threads(1)
    tell = failures.report

    def report(error: BaseException, *, debug: bool) -> int:
        note(error)
        return tell(error, debug=debug)

    failures.report = report
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + SPARE,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(watch)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in asked:
        request = json.loads(line)
        answer = run(command, request["argv"], request["folder"], request["environment"], out, err)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
