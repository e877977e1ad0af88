"""A run killed with -9 and started again ends exactly like one that was left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl.model.weights import read_header, read_tensors

pytestmark = pytest.mark.slow

KILLING = Path(__file__).with_name("killing.py")
TIMINGS = ("images_per_s", "wall_s")
# Twenty steps with checkpoints at 10 and 20: after the first, inside it, before the second, and just after the last.
POINTS = {"step": 13, "save": 1, "between": 17, "rename": 2}


def arguments(data: Path, run: Path, dtype: str) -> list[str]:
    return ["train", "debug", "--data", str(data), "--run", str(run), "--set", f"run.dtype={dtype}", "--threads", "1"]


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_cli: Any, fashion_excerpt: Path
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    done = make_cli(folder)(*arguments(fashion_excerpt, folder / "run", request.param))
    assert done.returncode == 0, done.stderr
    return request.param, folder / "run"


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_is_bit_identical(
    point: str, uninterrupted: tuple[str, Path], cli: Any, tmp_path: Path, fashion_excerpt: Path
) -> None:
    dtype, expected = uninterrupted
    run = tmp_path / "run"
    command = arguments(fashion_excerpt, run, dtype)
    killed = subprocess.run(
        [sys.executable, KILLING, point, str(POINTS[point]), *command],
        env=cli.environment(),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = cli(*command)
    assert resumed.returncode == 0, resumed.stderr

    assert metrics(run) == metrics(expected)
    assert [line["step"] for line in metrics(run)] == list(range(1, 21))
    for name in ("model.safetensors", "checkpoints/000000000160.safetensors"):
        ours, theirs = read_tensors(run / name), read_tensors(expected / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    kinds = {name.split(".")[0] for name in read_tensors(run / "checkpoints/000000000160.safetensors")}
    assert kinds == {"model", "ema", "optim"}
    assert read_header(run / "model.safetensors") == read_header(expected / "model.safetensors")
    left = {p.name for p in (run / "checkpoints").iterdir()}
    assert left == {"000000000080.safetensors", "000000000160.safetensors"}  # nothing half-written remains
