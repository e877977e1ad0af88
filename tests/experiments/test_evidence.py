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
from experiments.evidence.measures import FRAMES, GUIDED, MODES, SOLVED, STEPS, width
from experiments.evidence.page import page
from experiments.evidence.results import against, best_vae, compare
from spherectl import recipe as recipes
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


class Numbers:
    """Numbers that occur once each, so that a page can be searched for them."""

    def __init__(self) -> None:
        self.last = 20.0

    def __call__(self) -> float:
        self.last = round(self.last + 1.01, 2)
        return self.last

    def scores(self, **more: Any) -> dict[str, Any]:
        middle = self()
        ends = {"low": round(middle - 0.3, 2), "high": round(middle + 0.3, 2)}
        return {**more, "count": 2000, "frechet": middle, **ends, "recall": 0.5, "right": 80.5}


def measured(number: Numbers) -> dict[str, Any]:
    return {
        "count": 1000,
        "dimension": 512,
        **{name: {"value": number(), "expected": 1.5, "spread": 0.1, "p_value": 0.01} for name in (
            "mean_direction", "pairwise_angles", "effective_rank", "energy_distance",
        )},
    }  # fmt: skip


def run_of(name: str, number: Numbers) -> dict[str, Any]:
    recipe = recipes.load(evidence.RECIPES / f"{name}.toml")
    row: dict[str, Any] = {"name": name, "kind": recipe.model.kind, "summary": recipe.summary, "kl": recipe.loss.kl}
    row |= {"images_seen": 60_000, "images_per_s": number(), "cpu_minutes": number(), "parameters": int(1e6 * number())}
    row["machine"] = {"processor": "Abacus", "flags": [], "device": "cpu, 3 threads"}
    if recipe.model.kind == "diffusion":
        settings: list[dict[str, Any]] = [{"steps": steps, "solver": solver} for solver, steps in SOLVED]
    elif recipe.model.kind == "vae":
        settings = [{"steps": 1}]
    else:
        plain = [{**PLAIN, "steps": steps} for steps in STEPS]
        more = [one for one in MODES if one not in plain] + GUIDED if name == "base" else []
        settings = plain + more
    row["samples"] = [
        {"setting": setting, "networks": 1, "ms_per_image": number(), **number.scores()} for setting in settings
    ]
    if recipe.model.kind != "diffusion":
        row["hole"] = {one: number.scores() for one in ("input", "reconstruction", "prior", "fitted")}
        row |= {"psnr_db": number(), "uniformity": measured(number)}
    if name == "base":
        row["training"] = [{"images_seen": seen, **measured(number)} for seen in (20_000, 40_000, 60_000)]
        along = [place / (FRAMES - 1) for place in range(FRAMES)]
        row["interpolation"] = {
            "pairs": 100,
            "difference": {"value": -0.123, "low": -0.234, "high": -0.0123},
            **{one: {"width": number(), "curve": along} for one in ("path", "crossfade")},
        }
    return row


def results(*names: str) -> dict[str, Any]:
    number = Numbers()
    base = recipes.load(evidence.RECIPES / "base.toml").to_table()
    return {
        "format": 1,
        "base": base,
        "count": 2000,
        "resamples": 200,
        "date": "2031-02-03",
        "command": "python -m experiments.evidence",
        "real": {"scorer": "fashion-scorer", **number.scores()},
        "runs": [run_of(name, number) for name in names or evidence.RUNS],
        "images": {"steps": "steps.png", "cost": "cost.png"},
    }


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return results()


@pytest.mark.fast
def test_every_recipe_of_the_evidence_is_run_once() -> None:
    assert sorted(evidence.RUNS) == sorted(path.stem for path in evidence.RECIPES.glob("*.toml"))


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


@pytest.mark.fast
def test_claims_follow_the_numbers(whole: dict[str, Any]) -> None:
    found = {claim.title: claim.outcome for claim in claims(whole)}
    # Numbers grow along the table: one step comes before two and four, the base before all others.
    assert found["One step works"] == "holds"
    assert found["Two and four steps are better than one"] == "does not hold"
    assert found["Each loss is needed"] == "holds"
    assert found["Latents cover the sphere evenly"] == "does not hold"
    assert found["Between two classes, images change class fast"] == "holds"
    turned = copy.deepcopy(whole)
    for row in turned["runs"]:
        for one in row["samples"]:
            one |= {key: 1000 - one[key] for key in ("frechet", "low", "high")}
            one["low"], one["high"] = one["high"], one["low"]
        if "uniformity" in row:
            for measure in row["uniformity"].values():
                if isinstance(measure, dict):
                    measure["p_value"] = 0.5
        if row.get("interpolation"):
            row["interpolation"]["difference"] |= {"low": -0.2, "high": 0.2}
    other = {claim.title: claim.outcome for claim in claims(turned)}
    assert other["One step works"] == "does not hold"
    assert other["Two and four steps are better than one"] == "holds"
    assert other["Each loss is needed"] == "does not hold"
    assert other["Latents cover the sphere evenly"] == "holds"
    assert other["Between two classes, images change class fast"] == "open"


@pytest.mark.fast
def test_the_best_vae_is_that_of_the_nearest_prior(whole: dict[str, Any]) -> None:
    for name, told in (("vae-kl-1e-1", "0.1 gives"), ("vae-kl-10", "10 (the largest) gives")):
        changed = copy.deepcopy(whole)
        for row in changed["runs"]:
            if row["kind"] == "vae":
                row["hole"]["prior"]["frechet"] = 3.0 if row["name"] == name else 5.0
        assert best_vae(changed)["name"] == name
        assert f"Of 7 weights of the divergence, {told} the best prior samples" in page(changed).replace("\n", " ")


@pytest.mark.fast
def test_a_collapsed_vae_is_told_of_and_not_chosen(whole: dict[str, Any]) -> None:
    changed = copy.deepcopy(whole)
    by_name = {row["name"]: row for row in changed["runs"]}
    flat = {"frechet": 2.0, "low": 1.9, "high": 2.1}
    gone = by_name["vae-kl-10"]
    gone["hole"] = {name: flat | {"count": 2000} for name in gone["hole"]}
    gone["samples"][0] |= flat | {"recall": 0.0}
    by_name["vae-kl-3"]["hole"]["prior"] |= {"frechet": 3.0, "low": 2.9, "high": 3.1}
    text = page(changed).replace("\n", " ")
    assert best_vae(changed)["name"] == "vae-kl-3"
    assert "3 (the largest that did not collapse) gives the best prior samples" in text
    assert f"for collapse: vae-kl-10 (prior 2 (1.9 to 2.1), recall 0, {gone['psnr_db']:g} dB)." in text
    assert "no control for that (vae-kl-10, 2 (1.9 to 2.1))" in text
    # Neither a poor prior nor a perfect one is a collapse.
    gone["samples"][0]["recall"] = 0.5
    assert best_vae(changed)["name"] == "vae-kl-10"
    gone["samples"][0]["recall"] = 0.0
    gone["hole"]["reconstruction"] = {"frechet": 1.0, "low": 0.9, "high": 1.1}
    assert best_vae(changed)["name"] == "vae-kl-10"
    assert "collapse" not in page(changed)


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


@pytest.mark.fast
def test_the_page_in_the_repository_is_that_of_its_numbers() -> None:
    """Both files are there, or none: they are written by one command."""
    table, text = ROOT / "docs" / "evidence.json", ROOT / "docs" / "evidence.md"
    assert table.exists() == text.exists()
    if not table.exists():
        return
    found = json.loads(table.read_text(encoding="utf-8"))
    assert text.read_text(encoding="utf-8") == page(found)
    assert all((ROOT / "docs" / "evidence" / name).is_file() for name in found["images"].values())


@pytest.fixture
def given(tmp_path: Path, fashion_excerpt: Path) -> Namespace:
    changes = [f"{key}={value}" for key, value in TINY.items()]
    sizes = {"images": 48, "count": 10, "resamples": 5, "draws": 19, "device": "cpu", "threads": None}
    places = {"data": fashion_excerpt, "work": tmp_path / "work", "out": tmp_path / "docs"}
    return Namespace(names=["base", "vae-kl-1e-2", "diffusion"], set=changes, **sizes, **places)


@pytest.mark.slow
def test_the_command_trains_measures_and_goes_on(given: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setattr(measures, "measured_once", lambda call: call() is None or 0.25)
    monkeypatch.setattr(measures, "PAIRS", 3)
    solved = (("ddim", 1), ("ddim", 3), ("dpm", 3))
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
    assert [row["networks"] for row in diffusion["samples"]] == [1, 3, 3]
    drawn = {path.name for path in (given.out / "evidence").glob("*.png")}
    assert drawn == set(second["images"].values())
    assert len(drawn) == 10
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
