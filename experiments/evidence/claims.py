"""All claims of the page, in its order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.evidence import claims_of_latents as latents
from experiments.evidence import claims_of_samples as samples
from experiments.evidence.claim import Claim
from experiments.evidence.claims_of_samples import LOSSES
from experiments.evidence.results import has, vaes

# What makes each claim, the runs that it needs, and whether it needs a VAE; in the order of the page.
MAKERS: tuple[tuple[Callable[[dict[str, Any]], Claim], tuple[str, ...], bool], ...] = (
    (samples.one_step, ("base",), True),
    (samples.more_steps, ("base",), False),
    (samples.modes, ("base",), False),
    (samples.guidance, ("base",), False),
    (samples.angle, ("base", "angle-70", "angle-85"), False),
    (samples.losses, ("base", *LOSSES), False),
    (samples.classes, ("base", "unconditional"), False),
    (latents.uniform, ("base",), True),
    (latents.hole, ("base",), True),
    (latents.interpolation, ("base",), False),
    (samples.cost, ("base", "diffusion"), False),
)


def claims(results: dict[str, Any]) -> list[Claim]:
    """All whose runs have results; a claim that needs a VAE takes the best of those there are."""
    with_vae = bool(vaes(results))
    return [make(results) for make, names, needs_vae in MAKERS if has(results, *names) and (with_vae or not needs_vae)]
