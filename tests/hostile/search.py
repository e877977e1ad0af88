"""Ask every generator in turn, and sort what was wrong by kind, promise and place.

Each generator gives `Attempt`s that begin with something valid and change it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.hostile import archives, bases, documents, images, models, options
from tests.hostile.harness import Attempt, Harness

KINDS: dict[str, SearchStrategy[Attempt]] = {
    name: kind for module in (models, images, documents, archives, options) for name, kind in module.KINDS.items()
}
ROUND = 40  # inputs of a generator before the next has its turn


@dataclass
class Group:
    """Faults of one place: how many, and the first of them."""

    count: int
    command: str
    seen: str


@dataclass
class Found:
    """What a search found.

    Attributes:
        by_kind: how many were tried of each kind.
        ends: how many ended with each exit code; "None": were killed.
        groups: faults by (kind, promise, place).
    """

    seconds: float = 0.0
    by_kind: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return self.by_kind.total()

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        rows = [
            {"kind": kind, "promise": promise, "where": where, **vars(group)}
            for (kind, promise, where), group in sorted(self.groups.items())
        ]
        return {
            "inputs": self.inputs,
            "faults": self.faults,
            "by_kind": dict(self.by_kind),
            "exit_codes": dict(self.ends),
            "seconds": round(self.seconds),
            "groups": rows,
        }


def search(
    kinds: dict[str, SearchStrategy[Attempt]],
    *,
    scratch: Path,
    count: int,
    seed: int = 0,
    seconds: float = float("inf"),
    keep: Path | None = None,
    told: Callable[[str], None] = lambda _line: None,
) -> Found:
    """Run inputs of every kind until there are enough of them, or the time is up.

    Args:
        kinds: generators by name.
        scratch: where boxes are made.
        count: inputs in all, about.
        seed: the same seed, the same inputs.
        seconds: after which no new round begins.
        keep: where the first input of each fault is kept.
        told: takes a line for each new group of faults.
    """
    bases.prepare()  # outside of hypothesis, which watches over what is random
    found, began = Found(), time.monotonic()
    with Harness(scratch) as harness:
        turn = 0
        while found.inputs < count and time.monotonic() - began < seconds:
            kind = list(kinds)[turn % len(kinds)]
            few = min(ROUND, -(-count // len(kinds)), count - found.inputs)

            def check(attempt: Attempt) -> None:
                if time.monotonic() - began < seconds + 30:
                    _one(attempt, harness, found, keep, told)

            try:
                _run(kinds[kind], check, few, seed + turn)
            except Exception as error:  # noqa: BLE001 - a mistake of the generator, which ends its turn alone
                found.groups[kind, "generator", type(error).__name__] = Group(1, "", f"{error!r:.300}")
                told(f"{kind} | generator | {error!r:.300}")
            turn += 1
    found.seconds = time.monotonic() - began
    return found


def _run(strategy: SearchStrategy[Attempt], check: Callable[[Attempt], None], count: int, number: int) -> None:
    """Have hypothesis make `count` inputs."""
    quiet = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(quiet(given(strategy)(check)))()


def _one(attempt: Attempt, harness: Harness, found: Found, keep: Path | None, told: Callable[[str], None]) -> None:
    place = keep / f"{found.inputs:06d}" if keep else None
    faults = harness.run(attempt, place)
    found.by_kind[attempt.kind] += 1
    found.ends[str(harness.code)] += 1
    found.faults += bool(faults)
    for fault in faults:
        key = (attempt.kind, fault.promise, fault.where or re.sub(r"\d+|/\S+|'[^']*'", "_", fault.seen)[:60])
        if key in found.groups:
            found.groups[key].count += 1
            continue
        found.groups[key] = Group(1, repr(attempt), f"{fault.seen} [{place}]" if place else fault.seen)
        told(" | ".join((attempt.kind, *key[1:], repr(fault.seen[:200]), str(place or repr(attempt)[:300]))))
