"""A run killed with -9 and started again ends exactly like one that was left alone."""

from __future__ import annotations

import functools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spherectl.model.formats.weights import read_tensors
from tests.training.remains import KILLING, assert_alike, left_behind, metrics

pytestmark = pytest.mark.slow

# Twelve steps with checkpoints at 6 and 12: after the first, inside it, before the second, and just after the last.
LENGTHS = {"length_images": 96, "checkpoint_images": 48, "sample_images": 48}
LAST = "checkpoints/000000000096"
POINTS = {"step": 8, "save": 1, "between": 10, "rename": 2}


def arguments(data: Path, run: Path, dtype: str) -> list[str]:
    places = ["--data", str(data), "--run-dir", str(run), "--threads", "1"]
    settings = [f"run.{key}={value}" for key, value in (LENGTHS | {"dtype": dtype}).items()]
    return ["train", "debug", *places, *(word for one in settings for word in ("--set", one))]


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, make_cli: Any, fashion_excerpt: Path
) -> Callable[[str], Path]:
    """By precision a run that was left alone, made when it is first asked for."""

    @functools.cache
    def run(dtype: str) -> Path:
        folder = tmp_path_factory.mktemp(dtype)
        done = make_cli(folder)(*arguments(fashion_excerpt, folder / "run", dtype))
        assert done.returncode == 0, done.stderr
        return folder / "run"

    return run


@pytest.mark.parametrize(("point", "dtype"), [*((point, "float32") for point in POINTS), ("step", "bfloat16")])
def test_killed_and_resumed_is_bit_identical(
    point: str, dtype: str, uninterrupted: Callable[[str], Path], cli: Any, tmp_path: Path, fashion_excerpt: Path
) -> None:
    expected, run = uninterrupted(dtype), tmp_path / "run"
    command = arguments(fashion_excerpt, run, dtype)
    killed = cli.python(KILLING, point, str(POINTS[point]), *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = cli(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in metrics(run)] == list(range(1, 13))
    assert_alike(run, left_behind(expected))
    kinds = {name.split(".")[0] for name in read_tensors(run / LAST / "shard-00000-of-00001.safetensors")}
    assert kinds == {"model", "ema", "optim"}
    left = {p.name for p in (run / "checkpoints").iterdir()}
    assert left == {"000000000048", "000000000096"}  # nothing half-written remains


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, make_cli: Any, make_together: Any, fashion_excerpt: Path
) -> Callable[[str], Path]:
    """By way of sharing the run of two processes that were left alone, made when it is first asked for."""

    @functools.cache
    def run(parallel: str) -> Path:
        folder = tmp_path_factory.mktemp(parallel)
        command = [*arguments(fashion_excerpt, folder / "run", "float64"), "--set", f"run.parallel={parallel}"]
        ended = make_together(folder)(2, "-m", "spherectl", *command, env=make_cli(folder).environment())
        assert [one.returncode for one in ended] == [0, 0], ended[0].stderr
        return folder / "run"

    return run


# One of two processes inside a step, both inside a save, the first after naming a checkpoint of shards.
@pytest.mark.parametrize(
    ("point", "victim", "parallel"), [("step", "1", "ddp"), ("save", None, "ddp"), ("rename", "0", "fsdp")]
)
def test_two_processes_killed_go_on_as_two_or_as_one(
    point: str,
    victim: str | None,
    parallel: str,
    pair: Callable[[str], Path],
    together: Any,
    cli: Any,
    tmp_path: Path,
    fashion_excerpt: Path,
) -> None:
    """As two to the bit; as one to 1e-9, in float64."""
    expected, run, other = pair(parallel), tmp_path / "run", tmp_path / "other"
    command = [*arguments(fashion_excerpt, run, "float64"), "--set", f"run.parallel={parallel}"]
    surroundings = cli.environment({"KILL": victim} if victim else None)
    nth = {"step": 8, "save": 1, "rename": 1}[point]
    killed = together(2, KILLING, point, nth, *command, env=surroundings)
    codes = [one.returncode for one in killed]
    assert all(codes[int(rank)] == -signal.SIGKILL for rank in (victim or "01")), killed[0].stderr
    if victim is not None:
        survivor = killed[1 - int(victim)]
        assert survivor.returncode == 1
        assert "error: Lost another process of this command" in survivor.stderr
        assert "Traceback" not in survivor.stderr
    shutil.copytree(run, other)
    resumed = together(2, "-m", "spherectl", *command, env=cli.environment())
    assert [one.returncode for one in resumed] == [0, 0], resumed[0].stderr
    assert_alike(run, left_behind(expected))
    alone = cli(*arguments(fashion_excerpt, other, "float64"))
    assert alone.returncode == 0, alone.stderr
    for ours, theirs in zip(metrics(other), metrics(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=0)
