"""Losses of the fast way beside float32's: the arithmetic, and the command on twelve steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spherectl.model import kernels

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_both_trainings_are_compared_and_not_done_twice(tmp_path: Path, cli: Any, fashion_excerpt: Path) -> None:
    out, work = tmp_path / "docs", tmp_path / "work"
    out.mkdir()
    (out / "performance.json").write_text('{"format": 2, "other": 1}', encoding="utf-8")
    options = ["--recipe", "debug", "--steps", 12, "--last", 4, "--data", fashion_excerpt, "--work", work, "--out", out]

    def run() -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = cli.python("-m", "benchmarks.training_equality", *options, cwd=ROOT)
        return done

    done = run()
    if not kernels.available():
        assert done.stderr.startswith("error: There is no fast way to compare with")
        return
    assert done.returncode == 0, done.stderr
    first = json.loads((out / "performance.json").read_text(encoding="utf-8"))
    equal = first["training_equality"]
    assert first["other"] == 1
    assert [row["path"] for row in equal["rows"]] == ["float32", "bfloat16, kernels"]
    for folder, row in zip(("float32", "fast"), equal["rows"], strict=True):
        lines = (work / folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert len(losses) == 12
        assert row["mean_loss"] == pytest.approx(sum(losses[-4:]) / 4, rel=1e-5)
    exact, fast = (row["mean_loss"] for row in equal["rows"])
    assert exact != fast
    assert equal["difference_percent"] == pytest.approx(100 * abs(fast / exact - 1), rel=0.02)
    assert equal["difference_percent"] < 2
    assert "## The same losses" in (out / "performance.md").read_text(encoding="utf-8")

    assert run().returncode == 0  # from the run folders, which are finished
    assert json.loads((out / "performance.json").read_text(encoding="utf-8"))["training_equality"] == equal
