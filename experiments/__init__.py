"""What is tried, not shipped: networks to compare with, trials of the loss, the evidence page, sweeps.

Importing this registers two kinds of networks with the Sphere Encoder's trunk, a VAE and a diffusion model. Their
recipes, runs and model files are read from then on: `python -m experiments train RECIPE` is `spherectl train` with
these kinds, and so are all other commands. `python -m experiments.evidence` and its like are experiments.
"""

from __future__ import annotations

from typing import Any

from spherectl.registry import NetworkKind, later, register


def _vae_problems(recipe: Any) -> list[str]:
    problems = []
    if recipe.model.encoder_mixer_blocks:
        problems.append("model.encoder_mixer_blocks: 0 for a VAE, whose means and variances one norm would tie")
    if not recipe.loss.kl:
        problems.append("loss.kl: a VAE needs a weight above 0, as in loss.kl = 0.01")
    return problems


def _diffusion_problems(recipe: Any) -> list[str]:
    problems = []
    if recipe.model.in_context_tokens:
        problems.append("model.in_context_tokens: 0 for a diffusion model")
    if recipe.loss.kl:
        problems.append("loss.kl: of a VAE alone")
    if recipe.loss.perceptual != "none":
        problems.append('loss.perceptual: "none" for a diffusion model, which is trained on noise')
    return problems


VAE = register(
    NetworkKind(
        name="vae",
        networks="E and D of a VAE",
        build=later("experiments.vae", "build"),
        initialise=later("spherectl.model.sphere", "initialise"),
        step=later("experiments.vae", "step"),
        problems=_vae_problems,
        gflop=later("experiments.vae", "gflop"),
        load=later("experiments.baselines", "Vae"),
        previews=later("experiments.previews", "of_vae"),
        autoencoder=later("experiments.baselines", "open_autoencoder"),
        sampling="python -m experiments.samples {}",
    )
)
DIFFUSION = register(
    NetworkKind(
        name="diffusion",
        networks="one diffusion network",
        build=later("experiments.diffusion", "build"),
        initialise=later("spherectl.model.sphere", "initialise"),
        step=later("experiments.diffusion", "step"),
        problems=_diffusion_problems,
        gflop=later("experiments.diffusion", "gflop"),
        load=later("experiments.baselines", "DiffusionModel"),
        previews=later("experiments.previews", "of_diffusion"),
        sampling="python -m experiments.samples {}",
    )
)
