"""Train, be killed, resume, sample and evaluate, where reading a pickle from a file raises."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.unpickling import DENIED, WAYS

SCRIPT = Path(__file__).with_name("unpickling.py")


@pytest.mark.slow
def test_no_file_is_unpickled_from_training_to_scores(cli: Cli, tmp_path: Path, fashion_excerpt: Path) -> None:
    data = ["--data", str(fashion_excerpt), "--threads", "1"]
    train = ["train", "debug", *data, "--run-dir", "run"]
    sample = ["sample", "--model", "run", "--count", "4", "--out", "grid.png", "--threads", "1"]
    again = ["sample", "--like", "grid.png", "--model", "run", "--out", "again.png", "--threads", "1"]
    evaluate = ["evaluate", "run", *data, "--features", "fashion-scorer", "--steps", "1", "--count", "20"]
    evaluate += ["--reconstructions", "20", "--bootstrap", "5", "--out", "report"]

    killed = cli.python(SCRIPT, "kill", "step", "13", *train)  # twenty steps, a checkpoint after the tenth
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert [path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000000080"]

    assert DENIED not in killed.stderr

    ended = cli.python(SCRIPT, *train, "--then", *sample, "--then", *again, "--then", *evaluate, "--then", "control")
    assert ended.returncode == 0, ended.stderr
    # Nothing but the control, in this very process, was denied; and each of its ways was.
    assert ended.stdout.count("is denied") == ended.stderr.count(DENIED) == WAYS
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "grid.png").read_bytes()
    scores = json.loads((tmp_path / "report" / "report.json").read_text())["rows"][0]["scores"]
    assert scores["frechet_distance"] > 0
