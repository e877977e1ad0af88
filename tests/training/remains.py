"""What a run leaves behind, to compare one with another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_tensors
from spherectl.training.monitor import Monitor

# A program that runs spherectl and kills itself at a point: killing.py POINT NTH ARGUMENTS...
KILLING = Path(__file__).with_name("killing.py")

TIMINGS = set(Monitor.KEYS)


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without their timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def left_behind(run: Path) -> dict[str, Any]:
    """All that a run ends with, by file and key, but its timings and TensorBoard's files, whose names hold the time."""
    found: dict[str, Any] = {}
    for path in (one for one in run.rglob("*") if one.is_file() and one.parent.name != "tensorboard"):
        name = str(path.relative_to(run))
        if path.name == "metrics.jsonl":
            found[name] = metrics(run)
        elif path.name == "checkpoint.json":
            about = json.loads(path.read_text())
            found |= {f"{name} {key}": value for key, value in about.items() if key not in TIMINGS}
        elif path.suffix == ".safetensors" and not path.name.startswith("."):
            found |= {f"{name} {key}": value for key, value in read_header(path).items() if key not in TIMINGS}
            found |= {f"{name} {key}": tensor.numpy().tobytes() for key, tensor in read_tensors(path).items()}
        else:
            found[name] = path.read_bytes()
    return found


def assert_alike(run: Path, whole: dict[str, Any], how: str = "") -> None:
    """A run left behind the same as `whole`, bit for bit."""
    left = left_behind(run)
    different = sorted(key for key in left.keys() | whole.keys() if left.get(key) != whole.get(key))
    assert not different, how
