"""What the long tests measured: each that passes renews its part of docs/soak.json, with the day and the machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.timing import machine, rounded
from spherectl.files import write_text
from spherectl.versions import versions

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "soak.json"

Record = Callable[..., None]


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """`record(part, key=value, ...)`, last in a test."""
    about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "versions": versions()}
    measured: dict[str, dict[str, Any]] = {}

    def note(part: str, **values: Any) -> None:
        rounded_values = {key: rounded(value) if isinstance(value, float) else value for key, value in values.items()}
        measured[part] = rounded_values | about

    yield note
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["parts"] if RESULTS.exists() else {}
    if measured:
        document = {"command": "make soak", "parts": dict(sorted((kept | measured).items()))}
        write_text(RESULTS, json.dumps(document, indent=1) + "\n")
