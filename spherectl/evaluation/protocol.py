"""What an evaluation is asked (`Plan`, `Real`) and what it finds (`Report`); `spherectl.evaluation.run` goes between.

`Task` is what the steps between the two share.

Letters: n samples, H and W image sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from spherectl import api
from spherectl.checks import MAX_BATCH, check_choice, check_seed, check_whole
from spherectl.data.datasets import ImageSet
from spherectl.evaluation.bootstrap import Difference
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import Quantise, Scores, Valued
from spherectl.evaluation.memorisation import Memorisation
from spherectl.evaluation.metrics import METRICS, Of, usual
from spherectl.evaluation.reference import Reference
from spherectl.evaluation.spectrum import PatchLines
from spherectl.evaluation.uniformity import UniformityByClass
from spherectl.processes import Processes
from spherectl.progress import Progress, part_of
from spherectl.recipe import SampleSpec
from spherectl.sampling import Strength

Interval = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What to sample and what to measure; None stands for the model's own setting.

    Attributes:
        steps, guidance, noise, strength, noise_deg: every combination is a row.
        count: samples of a row, spread evenly over the classes.
        seed: of the samples, the choice of real images and the bootstrap.
        batch: images computed together.
        quantise: how samples become bytes.
        metrics: what to measure, names of `METRICS`; None: the usual ones, as far as they can be had.
        resamples: of the bootstrap; 0: no intervals.
        reconstructions: real images to reconstruct, at most.

    Raises:
        UsageError: a number is out of range, or there is no such rule or metric.

    >>> from spherectl.evaluation import Plan
    >>> Plan(steps=(1, 4), guidance=(1.0, 1.4), metrics=["kid"]).wanted
    ('kid',)
    """

    steps: tuple[int | None, ...] = (None,)
    guidance: tuple[float | None, ...] = (None,)
    noise: tuple[Literal["shared", "fresh"] | None, ...] = (None,)
    strength: tuple[Strength | None, ...] = (None,)
    noise_deg: tuple[float | None, ...] = (None,)
    count: int = 2_000
    seed: int = 0
    batch: int = 64
    quantise: Quantise = "round"
    metrics: Collection[str] | None = None
    resamples: int = 200
    reconstructions: int = 2_000

    def __post_init__(self) -> None:
        """Check what is not part of a row's settings, which `settings` checks."""
        check_whole(self.count, "count", 2)
        check_seed(self.seed)
        check_whole(self.batch, "batch", 1, MAX_BATCH)
        check_choice(self.quantise, get_args(Quantise), "quantise")
        check_whole(self.resamples, "resamples")
        check_whole(self.reconstructions, "reconstructions", 2)
        for metric in self.metrics or ():
            check_choice(metric, METRICS, "metrics")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics, in their order."""
        return tuple(name for name in METRICS if name in (usual() if self.metrics is None else self.metrics))

    def settings(self, model: api.Model) -> list[SampleSpec]:
        """The rows' settings for a model, each once.

        Raises:
            UsageError: a setting is out of range, or guidance is asked of an unconditional model.

        >>> import spherectl
        >>> from spherectl.evaluation import Plan
        >>> plan = Plan(steps=(1, 4), guidance=(1.0, 1.4))
        >>> [row.steps for row in plan.settings(spherectl.load("fashion-mnist", device="cpu"))]
        [1, 4, 1, 4]
        """
        rows = []
        asked = {key: getattr(self, key) for key in ("noise", "strength", "noise_deg", "guidance", "steps")}
        for values in product(*asked.values()):
            spec = api.sample_settings(model, **dict(zip(asked, values, strict=True)))
            rows += [spec] if spec not in rows else []
        return rows


@dataclass(frozen=True, eq=False)
class Real:
    """The real images of an evaluation, as far as they are at hand.

    Attributes:
        reference: what samples are compared with; None on all processes but the first.
        train, test: the splits of the models' data set.
        compared: which of them the reference is; None: neither.
        notes: what to know of these images, in sentences.
    """

    reference: Reference | None
    train: ImageSet | None = None
    test: ImageSet | None = None
    compared: Literal["train", "test"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def held_out(self) -> ImageSet | None:
        """Images that the reference does not hold; those that no model was trained on first."""
        return self.train if self.compared == "test" else self.test

    @property
    def unseen(self) -> ImageSet | None:
        """Images that no model was trained on, else those that one was."""
        return self.test if self.test is not None else self.train


class Bar:
    """Progress of several parts as progress of the whole.

    Args:
        progress: called with images done, images in all, and what is going on.
        total: images in all.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def part(self, count: int, what: str) -> Progress | None:
        """For the next part, of `count` images."""
        before, self._done = self._done, self._done + count
        return part_of(self._progress, before, self._total, what)

    def aside(self, what: str) -> Progress | None:
        """For what is not counted in images: told in words."""
        if self._progress is None:
            return None
        tell = self._progress
        return lambda done, total, _="": tell(self._done, self._total, f"{what} {done} of {total}")


@dataclass(frozen=True, eq=False)
class Task:
    """What the steps of one evaluation share.

    Attributes:
        models, plan, real, extractor: as `evaluate` was given them.
        metrics: names of those that can be had here.
        compare: by key of a score, the function of originals and reconstructions behind it.
        processes: those that share the work.
        bar: of the whole.
    """

    models: Sequence[api.Model]
    plan: Plan
    real: Real
    extractor: Extractor
    metrics: tuple[str, ...]
    compare: dict[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)
    bar: Bar = field(default_factory=lambda: Bar(None, 0))


@dataclass(frozen=True)
class Row:
    """One model at one setting, or the real images.

    Attributes:
        model: name; "real images" for those.
        settings: of the samples.
        scores: of the samples.
        fd_ratio: the Frechet distance over that of as many real images; 1 for real images.
        intervals: 95% intervals by the name of the score.
        channel_spread: of a grey model, the largest difference between channels of a sample, in 255 levels.
        patch_lines: whether the model's patches show in the samples' spectrum.
        seconds: to sample and to extract the features.
    """

    model: str
    settings: dict[str, Any] | None
    scores: Scores
    fd_ratio: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    channel_spread: int | None = None
    patch_lines: PatchLines | None = None
    seconds: float | None = None

    @property
    def label(self) -> str:
        """The row in words."""
        if self.settings is None:
            return self.model
        steps = self.settings["steps"]
        words = f"{self.model}, {steps} step{'s' * (steps > 1)}, guidance {self.settings['guidance']:g}"
        unusual = [self.settings[key] for key in ("noise", "strength") if self.settings[key] in ("fresh", "decaying")]
        words += f", {' and '.join(unusual)} noise" if unusual else ""
        most = self.settings["noise_deg"]
        return words if most == "training" else f"{words}, at most {most:g} degrees"


@dataclass(frozen=True)
class Comparison:
    """One row less another, image by image.

    Attributes:
        first, second: labels of the rows.
        score: name of the score.
        difference: of the first less the second, with its 95% interval.
    """

    first: str
    second: str
    score: str
    difference: Difference


@dataclass(frozen=True)
class Reconstruction(Valued):
    """How well a model gives real images back, without noise and with their own classes.

    Attributes:
        model: name.
        images: which.
        count: n.
        values: by key; `reconstruction.psnr` is `reconstruction.values.get("psnr")`, and so on for `rfid`, `ssim` and
            `lpips`: means over images, but for `rfid`.
        intervals: 95% intervals of the means.
    """

    OF: ClassVar[Of] = "reconstructions"

    model: str
    images: str
    count: int
    values: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Grid:
    """The first samples of a row: uint8 (n, 3, H, W), with what decides their pixels."""

    name: str
    pixels: Tensor
    columns: int
    model: api.Model
    settings: SampleSpec
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Report:
    """All that one evaluation found, with what it was asked.

    Attributes:
        models, plan, real, extractor: as `evaluate` was given them.
        accuracy_real: share of real images that the network gives their own class; None where it knows none.
        rows: models at their settings, in the order asked.
        real_row: that of real images; None where there are none beside the reference.
        comparisons, reconstructions: see there.
        uniformity, memorisation: by model, where asked.
        notes: what could not be measured, and why; what to beware of.
        grids, neighbours: images for people.

    `evaluate` and `write` have examples of one that was measured.

    >>> from dataclasses import fields
    >>> from spherectl.evaluation import Report
    >>> [field.name for field in fields(Report)][:4]
    ['models', 'plan', 'real', 'extractor']
    """

    models: Sequence[api.Model]
    plan: Plan
    real: Real
    extractor: Extractor
    accuracy_real: float | None
    rows: list[Row]
    real_row: Row | None
    comparisons: list[Comparison]
    reconstructions: list[Reconstruction]
    uniformity: dict[str, UniformityByClass]
    memorisation: dict[str, Memorisation]
    notes: list[str]
    grids: list[Grid]
    neighbours: dict[str, Tensor]
