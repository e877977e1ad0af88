"""Several processes that train together, started as a scheduler would: by torch.distributed's variables alone.

That spares torchrun's own start; `training/test_parallel.py` has one training under torchrun itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.forked import Ended, python_run, server_environment

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
        surroundings = {**(server_environment() if env is None else env), "OMP_NUM_THREADS": "1"}
        surroundings |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

        def one(rank: int) -> Ended:
            env = surroundings | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return python_run(*words, env=env, cwd=folder, timeout=PATIENCE_S)

        with ThreadPoolExecutor(world) as pool:
            return list(pool.map(one, range(world)))

    return run
