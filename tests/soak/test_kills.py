"""Runs killed (-9) at random points, of one process and of two, end as if they had been left alone."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.remains import KILLING, assert_alike, left_behind, metrics

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux tells it"),
]

Record = Callable[..., None]

KILLS, KILLS_OF_TWO = 20, 10
STEPS, BATCH, CHECKPOINT_STEPS = 100, 8, 10
# How often a point may be passed before the kill: three checkpoints, each of which saves two files.
LATEST = {"step": 3 * CHECKPOINT_STEPS, "between": 3 * CHECKPOINT_STEPS, "save": 6, "rename": 3}


def training(data: Path, run: Path, dtype: str, parallel: str = "ddp") -> list[str]:
    lengths = {"length_images": STEPS, "checkpoint_images": CHECKPOINT_STEPS, "sample_images": STEPS // 2}
    changes = [f"run.{key}={steps * BATCH}" for key, steps in lengths.items()]
    changes += [f"run.dtype={dtype}", f"run.parallel={parallel}"]
    options = [word for change in changes for word in ("--set", change)]
    return ["train", "debug", "--data", str(data), "--run-dir", str(run), "--threads", "1", *options]


def test_runs_killed_at_random_end_as_if_left_alone(
    cli: Any, tmp_path: Path, fashion_excerpt: Path, record: Record
) -> None:
    began, chance = time.monotonic(), random.Random(0)
    expected = {}
    for dtype in ("float32", "bfloat16"):
        done = cli(*training(fashion_excerpt, tmp_path / dtype, dtype))
        assert done.returncode == 0, done.stderr
        expected[dtype] = left_behind(tmp_path / dtype)
        assert len(expected[dtype]["metrics.jsonl"]) == STEPS
    kills: Counter[str] = Counter()
    runs = 0
    while kills.total() < KILLS:
        dtype, run = ("float32", "bfloat16")[runs % 2], tmp_path / f"run-{runs}"
        command, code = training(fashion_excerpt, run, dtype), -signal.SIGKILL
        while code == -signal.SIGKILL and kills.total() < KILLS:
            point = chance.choice(sorted(LATEST))
            killing = [KILLING, point, str(chance.randint(1, LATEST[point]))]
            ended = cli.python(*killing, *command)
            code = ended.returncode
            assert code in (0, -signal.SIGKILL), ended.stderr
            kills[point] += code == -signal.SIGKILL
        last = cli(*command)  # the run that the last kill has left; another says that it is finished
        assert last.returncode == 0, last.stderr
        runs += 1
        assert_alike(run, expected[dtype], f"run {runs} in {dtype}, last killed at {killing[1:]}")
    assert runs > 1
    assert kills.keys() == LATEST.keys()
    record("kills", kills=dict(sorted(kills.items())), runs=runs, steps_a_run=STEPS, seconds=time.monotonic() - began)


def test_runs_of_two_processes_killed_at_random_end_as_if_left_alone(
    cli: Any, together: Any, tmp_path: Path, fashion_excerpt: Path, record: Record
) -> None:
    """One of the two is killed, or both; after the last kill of a run one process alone goes on too, to 1e-9."""
    began, chance = time.monotonic(), random.Random(1)
    expected = {}
    for parallel in ("ddp", "fsdp"):
        run = tmp_path / parallel
        ended = together(
            2, "-m", "spherectl", *training(fashion_excerpt, run, "float64", parallel), env=cli.environment()
        )
        assert [one.returncode for one in ended] == [0, 0], ended[0].stderr
        expected[parallel] = left_behind(run)
    kills: Counter[str] = Counter()
    runs = 0
    while kills.total() < KILLS_OF_TWO:
        parallel, run = ("ddp", "fsdp")[runs % 2], tmp_path / f"run-{runs}"
        command, killed = training(fashion_excerpt, run, "float64", parallel), True
        while killed and kills.total() < KILLS_OF_TWO:
            point, victim = chance.choice(sorted(LATEST)), chance.choice(["0", "1", "both"])
            if point == "rename":
                victim = "0"  # the first process alone gives names
            surroundings = cli.environment({} if victim == "both" else {"KILL": victim})
            ended = together(2, KILLING, point, chance.randint(1, LATEST[point]), *command, env=surroundings)
            codes = {one.returncode for one in ended}
            # Who was not killed lost the other, and says so.
            assert codes <= {0, 1, -signal.SIGKILL}, ended[0].stderr + ended[1].stderr
            killed = -signal.SIGKILL in codes
            assert killed or codes == {0}, ended[0].stderr + ended[1].stderr
            kills[victim] += killed
        shutil.copytree(run, tmp_path / "alone")
        alone = cli(*training(fashion_excerpt, tmp_path / "alone", "float64", parallel))
        assert alone.returncode == 0, alone.stderr
        for ours, theirs in zip(metrics(tmp_path / "alone"), expected[parallel]["metrics.jsonl"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9, abs=0)
        shutil.rmtree(tmp_path / "alone")
        last = together(2, "-m", "spherectl", *command, env=cli.environment())
        assert [one.returncode for one in last] == [0, 0], last[0].stderr
        runs += 1
        assert_alike(run, expected[parallel], f"run {runs} by {parallel}, last killed at {point}, {victim}")
    assert runs > 1
    record("kills of two", kills=dict(sorted(kills.items())), runs=runs, seconds=time.monotonic() - began)
