"""Looking things up in docs/evidence.json, and comparing them."""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.tables import Row
from spherectl.errors import UsageError

Verdict = Literal["lower", "higher", "not told apart"]
NO_RECALL = 0.01  # below this, samples cover next to nothing of the real images
PLAIN: dict[str, Any] = {"steps": 1, "guidance": 1.0, "noise": "shared", "strength": "constant"}


def has(results: dict[str, Any], *names: str) -> bool:
    """Whether all of these runs have results."""
    return {row["name"] for row in results["runs"]}.issuperset(names)


def run_of(results: dict[str, Any], name: str) -> Row:
    """One run."""
    for row in results["runs"]:
        if row["name"] == name:
            return dict(row)
    raise UsageError(f"There is no result of the run {name} yet.")


def where(*runs: Row) -> str:
    """The machines of some runs: "cpu, 2 threads on AMD EPYC"."""
    return " and ".join(dict.fromkeys(f"{row['machine']['device']} on {row['machine']['processor']}" for row in runs))


def samples_of(results: dict[str, Any], name: str, **wanted: Any) -> list[Row]:
    """The samples of a run whose setting has these values."""
    rows: list[Row] = run_of(results, name)["samples"]
    return [row for row in rows if all(row["setting"].get(key) == value for key, value in wanted.items())]


def find(results: dict[str, Any], name: str, **changes: Any) -> Row:
    """The one row of a Sphere Encoder at the plain setting but for some changes."""
    (row,) = samples_of(results, name, **(PLAIN | changes))
    return row


def vaes(results: dict[str, Any]) -> list[Row]:
    """The VAEs of the sweep."""
    return [dict(row) for row in results["runs"] if row["kind"] == "vae"]


def collapsed(vae: Row) -> bool:
    """Whether a VAE's latents carry next to nothing.

    Its reconstructions are then no nearer to real images than samples of its prior, and those have next to no recall:
    it draws one image a class. A Frechet distance hardly sees that where classes differ more than images of one.
    """
    hole = vae["hole"]
    return compare(hole["reconstruction"], hole["prior"]) != "lower" and float(vae["samples"][0]["recall"]) < NO_RECALL


def rivals(swept: list[Row]) -> list[Row]:
    """The VAEs that the best is chosen from: those that did not collapse, or all where all did."""
    return [row for row in swept if not collapsed(row)] or swept


def best_vae(results: dict[str, Any], column: str = "prior") -> Row:
    """The VAE of the sweep whose samples of a column are nearest to real images."""
    return min(rivals(vaes(results)), key=lambda row: float(row["hole"][column]["frechet"]))


def compare(first: Row, second: Row) -> Verdict:
    """Whether a Frechet distance is lower than another, their 95% intervals apart."""
    if first["high"] < second["low"]:
        return "lower"
    return "higher" if first["low"] > second["high"] else "not told apart"


def against(first: Row, second: Row, name: str) -> str:
    """The same in words: "lower than NAME"."""
    verdict = compare(first, second)
    return f"{verdict} {'from' if verdict == 'not told apart' else 'than'} {name}"


def distance(row: Row) -> str:
    """A Frechet distance with its interval."""
    return f"{row['frechet']:g} ({row['low']:g} to {row['high']:g})"
