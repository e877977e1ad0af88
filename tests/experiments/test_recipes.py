"""The recipes of the evidence: what all have in common, and what does not go together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.evidence.__main__ import RUNS
from spherectl.errors import UsageError
from spherectl.recipe import load, parse

pytestmark = pytest.mark.fast

EVIDENCE = sorted((Path(experiments.__file__).parent / "recipes").glob("*.toml"))


def test_all_of_the_evidence_is_run_sees_as_many_images_and_is_not_picked_by_itself() -> None:
    assert sorted(path.stem for path in EVIDENCE) == sorted(RUNS)
    recipes = [load(path) for path in EVIDENCE]
    assert {(one.run.length_images, one.run.batch_size, one.run.seed) for one in recipes} == {(60_000, 64, 0)}
    assert not any(one.run.default for one in recipes)


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
