"""One row of an evaluation: the samples of a model at one setting, scored, with their bootstrap; and rows compared.

Letters: n samples, B batch, R resamples, H and W image sides.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.transforms import to_uint8
from spherectl.evaluation import bootstrap
from spherectl.evaluation.embeddings import Features
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import Quantise, right, score
from spherectl.evaluation.protocol import Comparison, Grid, Metric, Plan, Row
from spherectl.evaluation.reference import Reference
from spherectl.evaluation.spectrum import line_powers, patch_lines
from spherectl.processes import Processes
from spherectl.progress import Progress
from spherectl.recipe import SampleSpec

GRID_ROWS = 8

# (R,) values of each score, by its name.
Replicates = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a model at one setting, drawn when they are gathered: image i is the same in whatever batch.

    Attributes:
        model, settings, seed: what decides the images.
        labels: (n,) classes; None for an unconditional model.
        count: n.
        quantise: how they become bytes.
    """

    model: api.Model
    settings: SampleSpec
    seed: int
    labels: Tensor | None
    count: int
    quantise: Quantise

    def __len__(self) -> int:
        return self.count

    def gather(self, indices: Tensor) -> Tensor:
        """Images of the numbers (B,): uint8 (B, 3, H, W)."""
        labels = None if self.labels is None else self.labels[indices]
        return to_uint8(api.sample_indices(self.model, indices, labels, self.settings, self.seed), self.quantise)


@dataclass(frozen=True, eq=False)
class Scored:
    """A row with what belongs to it: its replicates, the samples to be shown, and the first of all as asked."""

    row: Row
    replicates: Replicates
    grid: Grid
    pixels: Tensor


def score_row(
    model: api.Model,
    spec: SampleSpec,
    plan: Plan,
    wanted: Collection[Metric],
    reference: Reference | None,
    extractor: Extractor,
    processes: Processes,
    *,
    floor: float | None = None,
    real_lines: Tensor | None = None,
    most: int = 0,
    progress: Progress | None = None,
    tell: Callable[[str], Progress] | None = None,
) -> Scored | None:
    """Draw the samples of one setting and score them.

    Args:
        model, spec: what draws.
        plan: how many, from which seed, in which bytes.
        wanted: metrics that can be had.
        reference: what to compare with; None on all processes but the first.
        extractor: the network that scores.
        processes: those that share the work.
        floor: Frechet distance of real images.
        real_lines: `line_powers` of real images (m, 2) for the model's patch; None: no such images.
        most: samples to hand back, beside those of the grid.
        progress: called with samples done and samples in all.
        tell: makes such a callback for what is not counted in samples.

    Returns:
        On the first process the row; None on the others.
    """
    started = time.perf_counter()
    labels = api.spread_classes(model, plan.count, None)
    samples = Samples(model, spec, plan.seed, labels, plan.count, plan.quantise)
    columns = model.num_classes if 1 < model.num_classes <= 2 * GRID_ROWS else GRID_ROWS
    shown = min(plan.count, columns * GRID_ROWS)

    def work(numbers: Tensor) -> dict[str, Tensor]:
        pixels = samples.gather(numbers)  # (B, 3, H, W)
        spread = (pixels.amax(1).int() - pixels.amin(1).int()).flatten(1).amax(1)  # (B,)
        lines = line_powers(pixels, model.recipe.model.patch)  # (B, 2)
        return {**extractor(pixels), "spread": spread, "lines": lines, "pixels": pixels[numbers < max(most, shown)]}

    found = processes.gather(plan.count, plan.batch, work, progress)
    if reference is None:
        return None
    features = Features(found["embedding"], found.get("logits"))
    known = labels if model.class_names == extractor.class_names else None
    scores = score(features, reference, extractor, metrics=wanted, labels=known, quantise=plan.quantise)
    replicates: Replicates = {}
    if plan.resamples:
        m = bootstrap.multiplicities(plan.count, plan.resamples, plan.seed)
        replicates = resample(features, known, reference, m, wanted, tell("resample") if tell else None)
    distance = scores.frechet_distance
    row = Row(
        model.name,
        spec.model_dump(),
        scores,
        floors=distance / floor if distance is not None and floor else None,
        intervals={name: bootstrap.interval(getattr(scores, name), values) for name, values in replicates.items()},
        channel_spread=int(found["spread"].max()) if model.recipe.data.channels == "grey" else None,
        patch_lines=patch_lines(found["lines"], real_lines) if real_lines is not None else None,
        seconds=time.perf_counter() - started,
    )
    classes = None if labels is None else labels[:shown]
    grid = Grid(row.label, found["pixels"][:shown], columns, model, spec, classes)
    return Scored(row, replicates, grid, found["pixels"][:most])


def resample(
    features: Features,
    labels: Tensor | None,
    reference: Reference,
    m: Tensor,
    wanted: Collection[Metric],
    progress: Progress | None = None,
) -> Replicates:
    """What resampled samples score; not recall, which repeats distort, and not precision.

    Args:
        features: of n samples.
        labels: (n,) classes that the network knows; None: no accuracy.
        reference: what to compare with.
        m: multiplicities (R, n).
        wanted: metrics.
        progress: called with resamples done and resamples in all, in the slowest part.
    """
    found: Replicates = {}
    if "fid" in wanted:
        mean, covariance = torch.from_numpy(reference.mean), torch.from_numpy(reference.covariance)
        found["frechet_distance"] = bootstrap.frechet_replicates(features.embedding, mean, covariance, m, progress)
    if "kid" in wanted and reference.features is not None:
        # The reference's own part is the same in all resamples, and an interval is put around the score.
        real = reference.features.embedding
        found["kid"] = bootstrap.kid_replicates(features.embedding, real, m, within_reference=0.0)
    if features.logits is not None and "is" in wanted:
        found["inception_score"] = bootstrap.inception_score_replicates(features.logits, m)
    if features.logits is not None and "acc" in wanted and labels is not None:
        found["accuracy"] = bootstrap.mean_replicates(right(features.logits, labels).double(), m)
    return found


def compare(
    rows: Sequence[Row], replicates: Sequence[Replicates], settings: Sequence[list[SampleSpec]]
) -> Iterator[Comparison]:
    """Each row against the one before it with other steps, and against the first model's at the same setting.

    Args:
        rows: model by model, setting by setting.
        replicates: of each row.
        settings: of each model's rows.
    """
    starts = [0, *itertools.accumulate(len(own) for own in settings)]
    pairs: list[tuple[int, int]] = []
    for number, start in enumerate(starts[:-1]):
        for place, spec in enumerate(settings[number]):
            row = start + place
            if place and _differ_in_steps(settings[number][place - 1], spec):
                pairs.append((row, row - 1))
            if number and spec in settings[0]:
                pairs.append((row, settings[0].index(spec)))
    for first, second in pairs:
        for name in (name for name in replicates[first] if name in replicates[second]):
            a, b = (getattr(rows[index].scores, name) for index in (first, second))
            found = bootstrap.difference(a, replicates[first][name], b, replicates[second][name])
            yield Comparison(rows[first].label, rows[second].label, name, found)


def _differ_in_steps(a: SampleSpec, b: SampleSpec) -> bool:
    return a.model_copy(update={"steps": b.steps}) == b
