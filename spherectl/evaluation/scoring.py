"""The rows of an evaluation: samples of a model at one setting, and real images, scored; and rows compared.

Letters: n samples, B batch, R resamples, H and W image sides.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.transforms import to_uint8
from spherectl.evaluation import bootstrap
from spherectl.evaluation.embeddings import Features, extract, real_draw
from spherectl.evaluation.fidelity import Quantise, score
from spherectl.evaluation.metrics import Measured, chosen
from spherectl.evaluation.protocol import Comparison, Grid, Row, Task
from spherectl.evaluation.spectrum import line_powers, patch_lines
from spherectl.recipe import SampleSpec

GRID_ROWS = 8
MAX_LINES = 2_000  # real images that a spectrum is compared with

# (R,) values of each score, by its key.
Replicates = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a model at one setting, made when they are gathered: image i is the same in whatever batch.

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
    """A row with its replicates, the samples to be shown, and the first of all samples as asked."""

    row: Row
    replicates: Replicates
    grid: Grid
    pixels: Tensor


def score_samples(
    task: Task,
    model: api.Model,
    settings: SampleSpec,
    real_row: Row | None = None,
    real_lines: Tensor | None = None,
    *,
    kept: int = 0,
) -> Scored | None:
    """Sample a model at one setting, and score the samples.

    Args:
        task: what is measured, and against what.
        model, settings: what samples.
        real_row: of as many real images, for the FD ratio.
        real_lines: of `lines_of_real_images`.
        kept: samples to hand back, beside those of the grid.

    Returns:
        On the first process the row; None on the others.
    """
    started, plan = time.perf_counter(), task.plan
    labels = api.spread_classes(model, plan.count, None)
    samples = Samples(model, settings, plan.seed, labels, plan.count, plan.quantise)
    columns = model.num_classes if 1 < model.num_classes <= 2 * GRID_ROWS else GRID_ROWS
    shown = min(plan.count, columns * GRID_ROWS)

    def work(numbers: Tensor) -> dict[str, Tensor]:
        pixels = samples.gather(numbers)  # (B, 3, H, W)
        spread = (pixels.amax(1).int() - pixels.amin(1).int()).flatten(1).amax(1)  # (B,)
        lines = line_powers(pixels, model.recipe.model.patch)  # (B, 2)
        first = pixels[numbers < max(kept, shown)]
        return {**task.extractor(pixels), "spread": spread, "lines": lines, "pixels": first}

    what = f"{model.name}, {settings.steps} step{'s' * (settings.steps > 1)}"
    found = task.processes.gather(plan.count, plan.batch, work, task.bar.part(plan.count, what))
    if task.real.reference is None:
        return None
    known = labels if model.class_names == task.extractor.class_names else None
    given = Measured(Features(found["embedding"], found.get("logits")), task.real.reference, known)
    scores = score(
        given.samples, given.reference, task.extractor, metrics=task.metrics, labels=known, quantise=plan.quantise
    )
    replicates: Replicates = {}
    if plan.resamples:
        m = bootstrap.multiplicities(plan.count, plan.resamples, plan.seed)
        for metric in chosen(task.metrics, "samples"):
            if metric.resample is not None:
                replicates |= metric.resample(given, m, task.bar.aside(f"{what}: resample"))
    distance = scores.frechet_distance
    real_distance = None if real_row is None else real_row.scores.frechet_distance
    row = Row(
        model.name,
        settings.model_dump(),
        scores,
        fd_ratio=distance / real_distance if distance is not None and real_distance else None,
        intervals={key: bootstrap.interval(scores.values[key], values) for key, values in replicates.items()},
        channel_spread=int(found["spread"].max()) if model.recipe.data.channels == "grey" else None,
        patch_lines=None if real_lines is None else patch_lines(found["lines"], real_lines),
        seconds=time.perf_counter() - started,
    )
    classes = None if labels is None else labels[:shown]
    grid = Grid(row.label, found["pixels"][:shown], columns, model, settings, classes)
    return Scored(row, replicates, grid, found["pixels"][:kept])


def score_real_images(task: Task) -> tuple[Row | None, Features | None]:
    """The score of as many real images, from the split that the reference is not, and their features.

    Returns:
        Nothing where there are no such images, and on all processes but the first.
    """
    images, plan = task.real.held_out, task.plan
    if images is None:
        return None, None
    draw = real_draw(images, plan.count, plan.seed)
    progress = task.bar.part(len(draw), "real images")
    features = extract(draw, task.extractor, batch=plan.batch, processes=task.processes, progress=progress)
    if features is None or task.real.reference is None:
        return None, None
    # Without labels there is no accuracy: on images that the network learned from it would say nothing.
    scores = score(
        features, task.real.reference, task.extractor, metrics=task.metrics, quantise="none, they are bytes already"
    )
    return Row("real images", None, scores, fd_ratio=1.0 if scores.frechet_distance else None), features


def lines_of_real_images(task: Task, patch: int) -> Tensor | None:
    """Powers (m, 2) of real images on the lines of a patch size, on the first process; None without such images."""
    if task.real.unseen is None or not task.processes.is_first:
        return None
    draw = real_draw(task.real.unseen, min(task.plan.count, MAX_LINES), task.plan.seed)
    return torch.cat([line_powers(draw.gather(part), patch) for part in torch.arange(len(draw)).split(task.plan.batch)])


def compare(scored: Sequence[Scored], settings: Sequence[Sequence[SampleSpec]]) -> Iterator[Comparison]:
    """Each row against the one before it with other steps, and against the first model's at the same setting.

    Args:
        scored: model by model, setting by setting.
        settings: of each model's rows.
    """
    starts = [0, *itertools.accumulate(len(own) for own in settings)]
    pairs: list[tuple[int, int]] = []
    for number, own in enumerate(settings):
        for place, spec in enumerate(own):
            row = starts[number] + place
            if place and own[place - 1].model_copy(update={"steps": spec.steps}) == spec:
                pairs.append((row, row - 1))
            if number and spec in settings[0]:
                pairs.append((row, settings[0].index(spec)))
    for first, second in ((scored[a], scored[b]) for a, b in pairs):
        for key in (key for key in first.replicates if key in second.replicates):
            values = (one.row.scores.values[key] for one in (first, second))
            found = bootstrap.difference(next(values), first.replicates[key], next(values), second.replicates[key])
            yield Comparison(first.row.label, second.row.label, key, found)
