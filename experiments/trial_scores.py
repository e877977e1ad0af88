"""What a short trial is worth: the scores of its samples, and how its latents lie on the sphere.

Letters: B batch, N tokens, d token channels, L = N d.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scoring import SCORER, frechet, reference_of
from benchmarks.tables import Row
from benchmarks.timing import rounded
from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float, to_uint8
from spherectl.evaluation.autoencoders import SphereAutoencoder
from spherectl.evaluation.embeddings import real_draw
from spherectl.evaluation.extractors import open_extractor
from spherectl.evaluation.fidelity import Scores
from spherectl.evaluation.projection import latents
from spherectl.evaluation.protocol import Plan, Real
from spherectl.evaluation.run import evaluate
from spherectl.model import seeding
from spherectl.model.geometry import effective_rank, perturb
from spherectl.model.sphere import parameter_count

STEPS = (1, 4)
SEED = 0  # of samples, noise and draws of real images
BATCH = 100


@torch.no_grad()
def scores(model: api.Model, images: ImageSet, test: ImageSet, count: int) -> tuple[Row, Row]:
    """What a model is worth.

    Args:
        model: of a finished trial.
        images, test: the real images, those to train with and those to compare with.
        count: samples at each number of steps; at most as many real images are noised, and looked at as latents.

    Returns:
        What is the same for every trial, and the trial's own numbers.
    """
    extractor = open_extractor(SCORER)
    reference = reference_of(test, extractor)
    plan = Plan(
        steps=STEPS,
        guidance=(1.0,),
        noise=("shared",),
        count=count,
        seed=SEED,
        batch=BATCH,
        metrics=("fid", "prc", "acc", "psnr"),
        resamples=0,
        reconstructions=len(test),
    )
    report = evaluate([model], plan, Real(reference, images, test, "test"), extractor)
    assert report is not None
    assert report.real_row is not None
    floor = cast("float", report.real_row.scores.frechet_distance)
    lost = frechet(extractor(noised_images(model, images, count))["embedding"], reference, extractor)
    directions, labels = latent_directions(model, test, count)

    row: Row = {"parameters": parameter_count(model.network), "latent_size": directions.shape[1]}
    for steps, one in zip(STEPS, report.rows, strict=True):
        row |= {f"{name}_{steps}": value for name, value in _of(one.scores, floor).items()}
        row[f"spread_{steps}"] = one.channel_spread
    row |= {
        "floors_noised": rounded(lost / floor),
        "psnr_db": rounded(cast("float", report.reconstructions[0].psnr)),
        "rank": rounded(effective_rank(directions)),
        "shared": rounded(shared_length(directions, labels)),
    }
    about = {
        "scorer": SCORER,
        "floor": rounded(floor),
        "recall_real": rounded(cast("float", report.real_row.scores.recall)),
        "right_real": rounded(100 * cast("float", report.accuracy_real)),
        "latents": len(directions),
    }
    return about, row


def _of(samples: Scores, floor: float) -> Row:
    """What the table has of the scores of one number of steps."""
    distance, right, recall = (
        cast("float", value) for value in (samples.frechet_distance, samples.accuracy, samples.recall)
    )
    return {
        "frechet": rounded(distance),
        "floors": rounded(distance / floor),
        "right": rounded(100 * right),
        "recall": rounded(recall),
    }


# D(f(v + sigma_max e), y), v = f(E(x, y))
def noised_images(model: api.Model, images: ImageSet, count: int) -> Tensor:
    """Images, `count` at most, turned by the largest usual angle of training and decoded: uint8 (n, 3, H, W)."""
    draw, decoded = real_draw(images, count, SEED), []
    for numbers in torch.arange(len(draw)).split(BATCH):
        labels = images.labels[draw.indices[numbers]]
        v = model.encode(to_float(draw.gather(numbers)), labels)  # (B, N, d)
        noise = seeding.noise(SEED, seeding.ROUND, numbers, model.network.latent_shape)  # (B, N, d)
        turned = perturb(v, model.recipe.noise.sigma_max, noise.to(v.device))  # (B, N, d)
        decoded.append(to_uint8(model.decode(turned, labels).cpu()))
    return torch.cat(decoded)


def latent_directions(model: api.Model, images: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    """Latents of `count` images at most, (n, L) of length 1, and their labels (n,)."""
    draw = real_draw(images, count, SEED)
    labels = images.labels[draw.indices]
    return F.normalize(latents(SphereAutoencoder(model), draw, labels), dim=1), labels


def shared_length(directions: Tensor, labels: Tensor) -> float:
    """Length of the mean of a class's unit vectors (n, L), averaged over the classes there are, 0 to 1."""
    return float(torch.stack([directions[labels == label].mean(0).norm() for label in labels.unique()]).mean())
