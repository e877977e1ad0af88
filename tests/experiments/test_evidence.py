"""The evidence: a page that says what its numbers say, and a command that keeps what it has and goes on."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.evidence import __main__ as evidence
from experiments.evidence import measures
from experiments.evidence.claim import decided
from experiments.evidence.claims import claims
from experiments.evidence.measures import GUIDED, MODES, STEPS, width
from experiments.evidence.page import page
from experiments.evidence.results import against, best_vae, compare
from spherectl.errors import TrainingError, UsageError

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
PLAIN = measures.PLAIN
TINY = {
    "model.size": "nano",
    "model.patch_size": 8,
    "model.compression_ratio": 24,
    "run.batch_size": 8,
    "optim.warmup_images": 8,
}


@pytest.fixture
def whole() -> dict[str, Any]:
    """The committed numbers."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "evidence.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.fast
def test_the_page_in_the_repository_is_that_of_its_numbers(whole: dict[str, Any]) -> None:
    assert (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8") == page(whole)
    assert all((ROOT / "docs" / "evidence" / name).is_file() for name in whole["images"].values())


@pytest.mark.fast
def test_distances_are_told_apart_by_their_intervals() -> None:
    low, high = {"low": 1.0, "high": 2.0}, {"low": 2.5, "high": 3.0}
    wide = {"low": 1.5, "high": 9.0}
    assert [compare(low, high), compare(high, low), compare(low, wide)] == ["lower", "higher", "not told apart"]
    assert against(low, high, "x") == "lower than x"
    assert against(low, wide, "x") == "not told apart from x"
    assert decided(["lower", "lower"]) == "holds"
    assert decided(["lower", "not told apart"]) == "open"
    assert decided(["not told apart", "higher"]) == "does not hold"


def outcomes(results: dict[str, Any], p_value: float, high: float) -> dict[str, str]:
    """What becomes of each claim with this evidence against even latents, and for a fast change between classes."""
    changed = copy.deepcopy(results)
    for row in changed["runs"]:
        for measure in row.get("uniformity", {}).values():
            if isinstance(measure, dict):
                measure["p_value"] = p_value
        if row.get("interpolation"):
            row["interpolation"]["difference"] |= {"low": -0.2, "high": high}
    return {claim.title: claim.outcome for claim in claims(changed)}


@pytest.mark.fast
def test_claims_follow_the_numbers(whole: dict[str, Any]) -> None:
    turned = copy.deepcopy(whole)  # what was the lowest distance is now the highest
    for one in [one for row in turned["runs"] for one in row["samples"]]:
        one |= {"frechet": 1000 - one["frechet"], "low": 1000 - one["high"], "high": 1000 - one["low"]}
    found, other = outcomes(whole, 0.001, -0.1), outcomes(turned, 0.5, 0.2)
    even, fast = "Latents cover the sphere evenly", "Between two classes, images change class fast"
    assert (found.pop(even), other.pop(even)) == ("does not hold", "holds")
    assert (found.pop(fast), other.pop(fast)) == ("holds", "open")
    held = [title for title, outcome in found.items() if outcome == "holds"]
    assert len(held) >= 3
    assert {other[title] for title in held} == {"does not hold"}


@pytest.mark.fast
def test_the_best_vae_has_the_nearest_prior_and_has_not_collapsed(whole: dict[str, Any]) -> None:
    vaes = {row["name"]: row for row in whole["runs"] if row["kind"] == "vae"}
    for place, row in enumerate(vaes.values()):
        row["hole"] = {
            "prior": {"frechet": 5.0 + place, "low": 4.9, "high": 5.1},
            "reconstruction": {"frechet": 1.0, "low": 0.9, "high": 1.1},
        }
    first, second = list(vaes)[:2]
    assert best_vae(whole)["name"] == first
    vaes[first]["hole"]["reconstruction"] = vaes[first]["hole"]["prior"]
    vaes[first]["samples"][0]["recall"] = 0.5
    assert best_vae(whole)["name"] == first  # a poor autoencoder, whose samples are many
    vaes[first]["samples"][0]["recall"] = 0.0
    assert best_vae(whole)["name"] == second


@pytest.mark.fast
@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.0, 0.0, 1.0, 1.0, 1.0], 0.25),
        ([0.0, 0.25, 0.5, 0.75, 1.0], 1.0),
        ([0.0, 0.5, 0.05, 0.95, 1.0], 0.25),  # from the last time that it is below
        ([0.5] * 5, 1.0),
        ([0.0, 0.1, 0.2, 0.3, 0.4], 1.0),
    ],
)
def test_the_width_of_a_transition(curve: list[float], expected: float) -> None:
    assert width(torch.tensor(curve)) == expected


@pytest.fixture
def given(tmp_path: Path, fashion_excerpt: Path) -> Namespace:
    changes = [f"{key}={value}" for key, value in TINY.items()]
    sizes = {"images": 48, "count": 10, "resamples": 3, "draws": 9, "device": "cpu", "threads": None}
    places = {"data": fashion_excerpt, "work": tmp_path / "work", "out": tmp_path / "docs"}
    return Namespace(names=["base", "vae-kl-1e-2", "diffusion"], set=changes, **sizes, **places)


@pytest.mark.slow
def test_the_command_trains_measures_and_goes_on(given: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setattr(measures, "measured_once", lambda call: call() is None or 0.25)
    monkeypatch.setattr(measures, "PAIRS", 3)
    solved = (("ddim", 1), ("dpm", 3))
    monkeypatch.setattr(measures, "SOLVED", solved)
    given.names = ["base"]
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "draw_images", lambda *_: {})
        assert evidence.run(given) == []
    table, text = given.out / "evidence.json", given.out / "evidence.md"
    first = json.loads(table.read_text(encoding="utf-8"))
    assert [row["name"] for row in first["runs"]] == ["base"]
    assert len(first["runs"][0]["samples"]) == len(STEPS) + len(MODES) - 2 + len(GUIDED)
    assert [one["images_seen"] for one in first["runs"][0]["training"]] == [16, 32, 48]

    # Killed after the training: nothing is trained again, and what is measured is the same.
    metrics = (given.work / "base" / "metrics.jsonl").read_bytes()
    table.unlink()
    given.names = ["base", "vae-kl-1e-2", "diffusion"]
    assert evidence.run(given) == []
    second = json.loads(table.read_text(encoding="utf-8"))
    assert (given.work / "base" / "metrics.jsonl").read_bytes() == metrics
    assert second["runs"][0] == first["runs"][0]
    assert [row["name"] for row in second["runs"]] == given.names
    vae, diffusion = second["runs"][1:]
    assert vae["samples"][0]["frechet"] == pytest.approx(vae["hole"]["prior"]["frechet"], rel=0.2)
    assert [(row["setting"]["solver"], row["setting"]["steps"]) for row in diffusion["samples"]] == list(solved)
    assert [row["networks"] for row in diffusion["samples"]] == [1, 3]
    plotted = {path.name for path in (given.out / "evidence").glob("*.png")}
    assert plotted == set(second["images"].values())
    assert len(plotted) == 10
    assert [path.name for path in (given.out / "evidence" / "rows").iterdir()] == ["base.png"]

    # The page is that of the numbers, and everything that is done stays as it is.
    assert text.read_text(encoding="utf-8") == page(second)
    kept = table.read_bytes()
    text.unlink()
    assert evidence.run(given) == []
    assert table.read_bytes() == kept
    evidence.write_page(given.out)
    assert text.read_text(encoding="utf-8") == page(second)
    given.count = 9
    with pytest.raises(UsageError, match="has evidence that differ from these in count"):
        evidence.run(given)


@pytest.mark.fast
def test_a_training_that_fails_is_told_of_and_not_recorded(
    given: Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(*arguments: Any) -> None:
        raise TrainingError("Step 3 has a non-finite loss.")

    monkeypatch.setattr(evidence, "trained", diverge)
    assert evidence.run(given) == given.names
    assert "diffusion: Step 3 has a non-finite loss." in capsys.readouterr().err
    assert not (given.out / "evidence.json").exists()
    given.names = ["bse"]
    with pytest.raises(UsageError, match="There is no run bse; those there are: base, "):
        evidence.run(given)
