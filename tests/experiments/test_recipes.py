"""The recipes of the evidence: what each differs in from the base of all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import experiments
from spherectl import registry
from spherectl.errors import UsageError
from spherectl.model.sphere import parameter_count
from spherectl.recipe import load, parse
from spherectl.tables import flatten

pytestmark = pytest.mark.fast

EVIDENCE = sorted((Path(experiments.__file__).parent / "recipes").glob("*.toml"))
VAE = {"model.kind": "vae", "model.encoder_mixer_blocks": 0, "loss.con": 0, "loss.con_perceptual": 0, "loss.latent": 0}
ALONE = {"sample.steps": 1, "sample.guidance": 1}
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "angle-70": {"noise.angle_deg": 70},
    "angle-85": {"noise.angle_deg": 85},
    "unconditional": {
        "model.num_classes": 0,
        "loss.label_dropout": 0,
        "sample.guidance": 1,
        "optim.warmup_images": 12_800,  # its head says why
    },
    "no-consistency": {"loss.con": 0, "loss.con_perceptual": 0},
    "no-latent": {"loss.latent": 0},
    "no-perceptual": {"loss.perceptual": "none", "loss.rec_perceptual": 0, "loss.con_perceptual": 0},
    "reconstruction-alone": {"loss.con": 0, "loss.con_perceptual": 0, "loss.latent": 0},
    **{
        f"vae-kl-{name}": {**VAE, **ALONE, "loss.kl": weight}
        for name, weight in {"1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1, "1": 1, "3": 3, "10": 10}.items()
    },
    "diffusion": {
        "model.kind": "diffusion",
        "loss.perceptual": "none",
        **dict.fromkeys(("loss.rec_perceptual", "loss.con", "loss.con_perceptual", "loss.latent"), 0),
        **ALONE,
        "sample.steps": 50,
    },
}


def test_these_are_all_the_recipes_of_the_evidence() -> None:
    assert {path.stem for path in EVIDENCE} == set(CHANGES)
    assert len(EVIDENCE) == 16


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: path.stem)
def test_a_recipe_of_the_evidence_differs_in_what_it_is_named_after(path: Path) -> None:
    base, loaded = (flatten(load(one).to_table()) for one in (path.with_name("base.toml"), path))
    changed = {key: value for key, value in loaded.items() if base.get(key) != value}
    assert changed.pop("name", f"evidence-{path.stem}") == f"evidence-{path.stem}"
    assert changed.pop("summary", loaded["summary"])
    assert changed == CHANGES[path.stem]
    assert base.keys() == loaded.keys()
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_all_of_the_evidence_sees_as_many_images_and_none_is_picked_by_itself() -> None:
    recipes = [load(path) for path in EVIDENCE]
    assert {(one.run.length_images, one.run.batch_size, one.run.seed) for one in recipes} == {(60_000, 64, 0)}
    assert not any(one.run.default for one in recipes)


@pytest.mark.parametrize("path", [path for path in EVIDENCE if path.stem in ("base", "vae-kl-1e-2", "diffusion")])
def test_the_heads_of_the_evidence_count_parameters(path: Path) -> None:
    recipe = load(path)
    counted = re.search(r"([\d,]+) parameters", path.read_text(encoding="utf-8"))
    assert counted
    with torch.device("meta"):
        assert parameter_count(registry.NETWORKS[recipe.model.kind].build(recipe.model)) == int(
            counted[1].replace(",", "")
        )


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"model": {"kind": "vae", "encoder_mixer_blocks": 0}}, "loss.kl: a VAE needs a weight above 0"),
        ({"model": {"kind": "vae"}, "loss": {"kl": 0.1}}, "model.encoder_mixer_blocks: 0 for a VAE"),
        ({"model": {"kind": "diffusion"}}, 'loss.perceptual: "none" for a diffusion model'),
        ({"model": {"kind": "diffusion", "in_context_tokens": 2}}, "model.in_context_tokens: 0 for a diffusion model"),
    ],
)
def test_what_does_not_go_with_a_kind_is_named(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse({"name": "a", "run": {"length_images": 10}, **tables}, "a")
