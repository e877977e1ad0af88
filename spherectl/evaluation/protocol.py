"""What an evaluation is asked (`Plan`, `Real`) and what it finds (`Report`); `spherectl.evaluation.run` goes between.

Letters: n samples, H and W image sides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, get_args

from torch import Tensor

from spherectl import api
from spherectl.checks import MAX_BATCH, check_choice, check_seed, check_whole
from spherectl.data.datasets import ImageSet
from spherectl.evaluation.bootstrap import Difference
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import Quantise, Scores
from spherectl.evaluation.memorisation import Memorisation
from spherectl.evaluation.reference import Reference
from spherectl.evaluation.spectrum import PatchLines
from spherectl.evaluation.uniformity import UniformityByClass
from spherectl.recipe import SampleSpec
from spherectl.sampling import Strength

Metric = Literal["fid", "kid", "is", "prc", "acc", "rfid", "psnr", "ssim", "lpips", "uniformity", "memorisation"]
METRICS: tuple[Metric, ...] = get_args(Metric)
USUAL: tuple[Metric, ...] = ("fid", "kid", "is", "prc", "acc", "rfid", "psnr", "ssim")
OF_RECONSTRUCTIONS: tuple[Metric, ...] = ("rfid", "psnr", "ssim", "lpips")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What to draw and what to measure; None stands for the model's own setting.

    Attributes:
        steps, guidance, noise, strength, noise_deg: every combination is a row.
        count: samples of a row, spread evenly over the classes.
        seed: of the samples, the draws of real images and the bootstrap.
        batch: images computed together.
        quantise: how samples become bytes.
        metrics: what to measure; None: the usual ones, as far as the reference and the network give them.
        resamples: of the bootstrap; 0: no intervals.
        reconstructions: real images to reconstruct, at most.

    Raises:
        UsageError: a number is out of range, or there is no such rule or metric.
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
    metrics: Collection[Metric] | None = None
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
    def wanted(self) -> tuple[Metric, ...]:
        """The metrics, in their order."""
        return tuple(metric for metric in METRICS if metric in (USUAL if self.metrics is None else self.metrics))

    def settings(self, model: api.Model) -> list[SampleSpec]:
        """The rows' settings for a model, each once.

        Raises:
            UsageError: a setting is out of range, or guidance is asked of an unconditional model.
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


@dataclass(frozen=True)
class Row:
    """One model at one setting, or the real images.

    Attributes:
        model: name; "real images" for those.
        settings: of the samples.
        scores: of the samples.
        floors: the Frechet distance in multiples of the real images'.
        intervals: 95% intervals by the name of the score.
        channel_spread: of a grey model, the largest difference between channels of a sample, in 255 levels.
        patch_lines: whether the model's patches show in the samples' spectrum.
        seconds: to draw the samples and extract their features.
    """

    model: str
    settings: dict[str, Any] | None
    scores: Scores
    floors: float | None = None
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
class Reconstruction:
    """How well a model gives real images back, without noise and with their own classes.

    Attributes:
        model: name.
        images: which, and how many.
        count: n.
        rfid: Frechet distance between reconstructions and originals.
        psnr, ssim, lpips: means over images; psnr in dB.
        intervals: 95% intervals of the means.
    """

    model: str
    images: str
    count: int
    rfid: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
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
        floor: the row of real images; None where there are none beside the reference.
        comparisons, reconstructions: see there.
        uniformity, memorisation: by model, where asked.
        notes: what could not be measured, and why; what to beware of.
        grids, neighbours: images for people.
    """

    models: Sequence[api.Model]
    plan: Plan
    real: Real
    extractor: Extractor
    accuracy_real: float | None
    rows: list[Row]
    floor: Row | None
    comparisons: list[Comparison]
    reconstructions: list[Reconstruction]
    uniformity: dict[str, UniformityByClass]
    memorisation: dict[str, Memorisation]
    notes: list[str]
    grids: list[Grid]
    neighbours: dict[str, Tensor]
