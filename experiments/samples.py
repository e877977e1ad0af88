"""Rows of samples of a VAE or a diffusion model, from the same noise: `spherectl plot samples` for these.

python -m experiments.samples runs/evidence/diffusion --steps 4,10,50 --solver dpm --out diffusion.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.baselines import DiffusionModel, Vae, load_baseline
from experiments.diffusion import SOLVERS, Solver
from experiments.previews import DIFFUSION_STEPS
from spherectl.files import asked_or_claimed
from spherectl.images import grid, save_png


def rows(
    model: Vae | DiffusionModel, steps: Sequence[int], count: int, *, seed: int = 0, solver: Solver = "ddim"
) -> Tensor:
    """A grid of samples, classes in turn.

    Args:
        model: a VAE has no steps and so one row.
        steps: a row each.
        count: samples in a row.
        seed: of all rows.
        solver: of a diffusion model.

    Returns:
        uint8 (3, H, W).
    """
    numbers = torch.arange(count)
    if isinstance(model, Vae):
        found = [model.sample(numbers, model.spread(count), seed=seed)]
    else:
        found = [model.sample(numbers, model.spread(count), steps=one, seed=seed, solver=solver) for one in steps]
    return grid(torch.cat(found), columns=count)


def main(words: Sequence[str] | None = None) -> None:
    """Write the grid."""
    parser = argparse.ArgumentParser(prog="python -m experiments.samples", description=__doc__)
    parser.add_argument("model", help="a run folder or a model file")
    parser.add_argument("--steps", default=",".join(map(str, DIFFUSION_STEPS)))
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--solver", choices=SOLVERS, default="ddim")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    model = load_baseline(given.model, device=given.device)
    steps = [int(one) for one in given.steps.split(",")]
    image = rows(model, steps, given.count, seed=given.seed, solver=given.solver)
    with asked_or_claimed(given.out, f"{model.name}-samples") as target:
        save_png(target, image, None)
    print(target)


if __name__ == "__main__":
    main()
