"""What a claim is, and when it holds.

A claim holds where all its comparisons come out as the paper has them with 95% intervals apart; it does not where one
comes out the other way with intervals apart; else it is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.tables import Columns, Row, counted, table
from experiments.evidence.results import Verdict

Outcome = Literal["holds", "does not hold", "open"]
TRAIN = "python -m experiments.evidence"
PLOT = "python -m experiments plot posterior-hole"


@dataclass(frozen=True)
class Claim:
    """One section of the page.

    Attributes:
        title: the claim, as a sentence without its full stop.
        outcome: whether it holds here.
        found: the numbers that decide, in sentences.
        control: what they are compared with.
        table: in Markdown.
        images: names of those that show it.
        commands: that show it again.
    """

    title: str
    outcome: Outcome
    found: str
    control: str
    table: str
    images: tuple[str, ...]
    commands: tuple[str, ...]


def decided(verdicts: list[Verdict]) -> Outcome:
    """What comparisons say that should all come out "lower"."""
    if "higher" in verdicts:
        return "does not hold"
    return "open" if "not told apart" in verdicts else "holds"


SAMPLES: Columns = {
    "what": "images",
    "frechet": "Frechet distance",
    "interval": "95% interval",
    "right": "accuracy, %",
    "recall": "recall",
}


def samples_table(rows: dict[str, Row]) -> str:
    """Scores of samples by what they are."""
    told = [row | {"what": what, "interval": f"{row['low']:g} to {row['high']:g}"} for what, row in rows.items()]
    return table(told, SAMPLES)


def steps_of(row: Row) -> str:
    """The number of steps of some samples, in words."""
    return counted(row["setting"]["steps"], "step")
