"""Half an hour of hostile inputs of every kind: none breaks a promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.hostile.search import KINDS, search

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="the worker's memory is read as Linux tells it"),
    pytest.mark.timeout(3600),
]

SECONDS = 1800.0


def test_hostile_inputs_of_every_kind(tmp_path: Path, record: Callable[..., None]) -> None:
    """Other inputs each day; the seed and the day's findings are in docs/soak.json."""
    seed = int(datetime.now(UTC).strftime("%Y%m%d"))
    found = search(KINDS, scratch=tmp_path, count=1_000_000, seed=seed, seconds=SECONDS)
    told = found.to_json()
    record(
        "hostile",
        seed=seed,
        kinds=len(KINDS),
        **{key: told[key] for key in ("inputs", "faults", "groups", "exit_codes", "seconds")},
    )
    assert not found.groups, json.dumps(told["groups"], indent=1)
