"""The metrics of runs, read for their figures.

Letters: n lines of a run's metrics.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import expanded, open_regular
from spherectl.shown import listed, quoted

Numbers = NDArray[np.float64]

METRICS = "metrics.jsonl"
EARLIER_NAMES = {"peak_share": "mfu"}  # of keys, in runs of earlier versions

# Of a run's metrics, which may be a stranger's.
MAX_LINE = 100_000  # bytes; ours have about 500
MAX_LINES = 20_000_000  # one is written every step
MAX_KEYS = 100  # ours have about 20
MAX_NUMBER = 1e100  # squares and sums of larger ones are none


@dataclass(frozen=True, eq=False)
class Curves:
    """The metrics of one run.

    Attributes:
        name: in the legend.
        columns: by key, (n,) float64; NaN where a line lacks the key.
    """

    name: str
    columns: dict[str, Numbers]

    def __len__(self) -> int:
        return len(self.columns["step"])


def find_run(text: str, runs: Path) -> Path:
    """The run folder that a command means: a path, or a name in the folder of runs.

    Raises:
        UsageError: there is no such folder.
    """
    for folder in (expanded(text), runs / text):
        if folder.is_dir():
            return folder
    known = sorted(path.parent.name for path in runs.glob(f"*/{METRICS}"))
    hint = f"Those in {runs}: {listed(known)}." if known else f"There is none in {runs} either; train one first."
    raise UsageError(f"There is no run folder {quoted(text)}.", hint)


def read_curves(folders: Sequence[Path]) -> list[Curves]:
    """The metrics of runs, each named after its folder, or after its path where two folders have one name.

    Raises:
        FileError: a run has no metrics yet, or they cannot be read.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [Curves(name, read_metrics(folder)) for name, folder in zip(names, folders, strict=True)]


def read_metrics(run: Path) -> dict[str, Numbers]:
    """The columns of a run's metrics: by key (n,) float64, NaN where a line lacks the key.

    A last line without its end, as a training leaves it that is writing or was killed, does not count.

    Raises:
        FileError: there are none yet, or a line is no JSON table of numbers with a step.
    """
    path = run / METRICS
    columns: dict[str, array[float]] = {}
    count = 0
    try:
        with open_regular(path) as file:
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                if count == MAX_LINES:
                    raise FileError(f"{path} has more than {MAX_LINES:,} lines, which no training writes.")
                _append(columns, count, line, path)
                count += 1
            if len(line) == MAX_LINE:
                raise FileError(f"{path}: line {count + 1:,} has more than {MAX_LINE:,} bytes; the file is damaged.")
    except SpherectlError:
        raise
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None
    if not count:
        raise FileError(f"{run} has no metrics yet.", "A training writes its first line after its first step.")
    for column in columns.values():
        _pad(column, count)
    return {key: np.frombuffer(column) for key, column in columns.items()}


def _append(columns: dict[str, array[float]], count: int, line: bytes, path: Path) -> None:
    """Add one line to the columns, which hold `count`."""
    try:
        values = json.loads(line)  # which takes NaN too, as a training may write it
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not all(map(_is_number, values.values())):
        values = {}
    if values.get("step") is None or len(columns.keys() | values.keys()) > MAX_KEYS:
        raise FileError(f"{path}: line {count + 1:,} is no line of metrics; the file is damaged.")
    for key, value in {EARLIER_NAMES.get(key, key): value for key, value in values.items()}.items():
        column = columns.setdefault(key, array("d"))
        if len(column) < count:
            _pad(column, count)
        column.append(math.nan if value is None else value)


def _is_number(value: Any) -> bool:
    if value is None:
        return True
    # An int may be larger than any float, so that it is compared before it becomes one.
    return type(value) in (int, float) and (
        abs(value) < MAX_NUMBER or value in (math.inf, -math.inf) or value != value  # noqa: PLR0124
    )


def _pad(column: array[float], count: int) -> None:
    column.extend([math.nan] * (count - len(column)))
