"""Several processes that train together, started as a scheduler would: by torch.distributed's variables alone.

That spares torchrun's own start; `training/test_parallel.py` has one training under torchrun itself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Ended = subprocess.CompletedProcess[str]
PATIENCE_S = 600


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., list[Ended]]:
    """`together(2, "script.py", ...)`: run Python with these words in two processes; how each ended, by rank."""
    return in_folder(tmp_path)


@pytest.fixture(scope="session")
def make_together() -> Callable[[Path], Callable[..., list[Ended]]]:
    """`make_together(folder)`, for fixtures of a whole file."""
    return in_folder


def in_folder(folder: Path) -> Callable[..., list[Ended]]:
    """What starts processes in a folder."""

    def run(world: int, *words: object, env: dict[str, str] | None = None) -> list[Ended]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        surroundings = dict(os.environ if env is None else env)
        surroundings |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        surroundings |= {"OMP_NUM_THREADS": "1"}
        started = []
        for rank in range(world):
            where = surroundings | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, *map(str, words)]
            started.append(
                subprocess.Popen(
                    command, env=where, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        ended = []
        for process in started:
            try:
                out, err = process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()
            ended.append(Ended(process.args, process.returncode, out, err))
        return ended

    return run
