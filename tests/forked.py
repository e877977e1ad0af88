"""Python command lines in forks of a process that has torch imported: a start costs milliseconds, not seconds.

`python_run` is `subprocess.run([sys.executable, ...])`: a process of its own, with its own folder, variables, files and
signals. Each test process starts one server, by `python forked.py`, when it first needs it. What a fork cannot
have - other variables of the interpreter or of OpenMP, another system - gets a new Python.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# What Python, OpenMP, typer and rich read once, when they are loaded.
READ_ONCE = (
    *("PYTHON", "OMP_", "MKL_", "LD_", "LC_", "LANG", "CUDA_"),
    *("COLUMNS", "TERMINAL_", "NO_COLOR", "FORCE_", "_TY"),
)
# Libraries whose folders follow HOME when they are loaded: each fork loads its own.
NEVER_SHARED = ("huggingface_hub", "matplotlib", "pooch", "tensorboard", "torch._inductor")

STARTING = threading.Lock()  # several threads may be the first

Ended = subprocess.CompletedProcess[str]


def python_run(
    *words: object, env: Mapping[str, str], cwd: Path, stdin: str = "", timeout: float | None = None
) -> Ended:
    """Run Python with some words to its end.

    Args:
        words: `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`.
        env: all variables of the process.
        cwd: where it runs.
        stdin: what it reads.
        timeout: seconds until it is killed; None: as long as the test may last.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    command = [sys.executable, *map(str, words)]
    if sys.platform != "linux" or read_once(env) != read_once(server_environment()):
        return subprocess.run(
            command, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, encoding="utf-8",
            timeout=timeout, check=False,
        )  # fmt: skip
    with contextlib.ExitStack() as files:
        streams = [files.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(stdin.encode())
        streams[0].seek(0)
        connection = files.enter_context(socket.socket(socket.AF_UNIX))
        with STARTING:
            place = server()
        connection.connect(place)
        request = json.dumps({"words": command[1:], "env": dict(env), "cwd": str(cwd)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], [stream.fileno() for stream in streams])
        connection.sendall(request)
        pid = int.from_bytes(received(connection, 4), "big")
        connection.settimeout(timeout)
        try:
            code = int.from_bytes(received(connection, 4), "big", signed=True)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(command, timeout or 0) from None
        texts = []
        for stream in streams[1:]:
            stream.seek(0)
            texts.append(stream.read().decode("utf-8").replace("\r\n", "\n"))
    return Ended(command, code, *texts)


def read_once(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that a fork has as its server has them."""
    return {name: value for name, value in env.items() if name.startswith(READ_ONCE)}


def server_environment() -> dict[str, str]:
    """Those of the server: plain output, 120 columns, and this process's own."""
    plain = {"COLUMNS": "120", "TERMINAL_WIDTH": "120", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    plain |= {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    return {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | plain


@functools.cache
def server() -> str:
    """The socket of this process's server, which ends with it."""
    folder = tempfile.mkdtemp(prefix="spherectl-forks-")
    command = [sys.executable, __file__, f"{folder}/socket"]
    started = subprocess.Popen(command, env=server_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return command[-1]


def received(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionError("the server of forks has gone")
        found += part
    return found


# The server


def serve(place: str) -> dict[str, Any]:
    """Fork for each request; returns in the fork alone, where its streams, folder and variables are set."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that wait
        for connection in accepted(listener):
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            size, handles, _, _ = socket.recv_fds(connection, 4, 3)
            request: dict[str, Any] = json.loads(received(connection, int.from_bytes(size, "big")))
            child = os.fork()
            if child:
                connection.sendall(child.to_bytes(4, "big"))
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(OSError):  # who asked may have gone
                    connection.sendall(code.to_bytes(4, "big", signed=True))
                os._exit(0)
            connection.close()
            for stream, handle in enumerate(handles):
                os.dup2(handle, stream)
                os.close(handle)
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["env"])
            return request
    shutil.rmtree(Path(place).parent)
    sys.exit()


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Connections, until the process that started this one has ended."""
    import select

    while listener in select.select([listener, 0], [], [])[0]:
        yield listener.accept()[0]


def run(words: list[str]) -> None:
    """What `python WORDS` does."""
    sys.argv = words
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    """Load what most command lines load, then fork."""
    import spherectl.api
    import spherectl.cli.app
    import spherectl.training.loop  # noqa: F401

    loaded = set(NEVER_SHARED) & set(sys.modules)
    assert not loaded, f"each fork must load {', '.join(sorted(loaded))} itself"
    run(serve(sys.argv[1])["words"])


if __name__ == "__main__":
    main()
