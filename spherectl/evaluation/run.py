"""The evaluation of one or several models: every asked setting drawn from the same seeds, scored against one reference.

Image i of every row has the same noise and class, so rows are compared image by image: the bootstrap resamples them
together. A row of real images, drawn from the other split as evenly over the classes as the samples are, says what a
perfect model would get.

Letters: n samples, B batch, R resamples, H and W image sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import UsageError
from spherectl.evaluation import bootstrap, memorisation, reconstruction, uniformity
from spherectl.evaluation.embeddings import Features, extract, real_draw
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import MIN_FID_IMAGES, right, score, unavailable
from spherectl.evaluation.protocol import (
    OF_RECONSTRUCTIONS,
    Interval,
    Plan,
    Real,
    Reconstruction,
    Report,
    Row,
)
from spherectl.evaluation.reference import from_features
from spherectl.evaluation.scoring import Scored, compare, score_row
from spherectl.evaluation.spectrum import line_powers
from spherectl.features import imagenet
from spherectl.features.independence import check_independent
from spherectl.processes import Processes
from spherectl.progress import Progress, part_of
from spherectl.recipe import SampleSpec

# Called with images done, images in all, and what is going on.

MAX_LINES = 2_000  # real images that a spectrum is compared with


def evaluate(
    models: Sequence[api.Model],
    plan: Plan,
    real: Real,
    extractor: Extractor,
    *,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Report | None:
    """Measure models.

    Args:
        models: at least one, all of one image size; with several, each is compared with the first.
        plan: what to draw and to measure.
        real: the images to compare with.
        extractor: the network that scores.
        processes: those that share the work; each draws and looks at its own part.
        progress: called with images done, images in all and what is going on, in this process alone.

    Returns:
        On the first process the report; None on the others.

    Raises:
        UsageError: models of several sizes, a setting out of range, a network that is a model's own loss, or a metric
            that needs images or a package that is not there; before anything is drawn.
        SpherectlError: LPIPS is asked for and its weights cannot be fetched.
    """
    return _Evaluation(models, plan, real, extractor, processes or Processes(), progress).run()


class _Evaluation:
    """What the parts of one evaluation share."""

    def __init__(
        self,
        models: Sequence[api.Model],
        plan: Plan,
        real: Real,
        extractor: Extractor,
        processes: Processes,
        progress: Progress | None,
    ) -> None:
        self.models, self.plan, self.real, self.extractor = models, plan, real, extractor
        self.processes = processes
        self.settings = [plan.settings(model) for model in models]
        _check(models, real, extractor, plan)
        with processes.first_goes_first():  # a download, or a package that is missing: rather now than in the end
            self._lpips = imagenet.load_lpips() if "lpips" in plan.wanted else None
        self.wanted = plan.wanted
        self.notes: list[str] = []
        self._unseen: tuple[Tensor, Tensor] | None = None  # logits and labels of test images
        self._lines: dict[int, Tensor] = {}  # of real images, by patch size
        self._progress, self._done = progress, 0
        self._total = self._count_images()

    def run(self) -> Report | None:
        """Rows, then reconstructions, then what else was asked."""
        if self.processes.is_first:
            self._drop_unavailable()
        floor = self._real_row()
        scored: list[Scored] = []
        kept: dict[str, Tensor] = {}
        for model, settings in zip(self.models, self.settings, strict=True):
            for spec in settings:
                # Near-copies are looked for among the samples of the last setting, the one with the most steps.
                many = spec is settings[-1] and "memorisation" in self.plan.wanted
                if (row := self._row(model, spec, floor, memorisation.MAX_SAMPLES if many else 0)) is not None:
                    scored.append(row)
                    kept |= {model.name: row.pixels} if many else {}
        reconstructions = [one for model in self.models if (one := self._reconstruction(model)) is not None]
        latents = {model.name: found for model in self.models if (found := self._uniformity(model)) is not None}
        if not self.processes.is_first:
            return None
        rows = [each.row for each in scored]
        copies = {model.name: self._memorisation(model, kept[model.name]) for model in self.models if kept}
        return Report(
            self.models,
            self.plan,
            self.real,
            self.extractor,
            accuracy_real=self._accuracy_real(),
            rows=rows,
            floor=floor,
            comparisons=list(compare(rows, [each.replicates for each in scored], self.settings)),
            reconstructions=reconstructions,
            uniformity=latents,
            memorisation={name: found for name, (found, _) in copies.items()},
            notes=[*self.real.notes, *self.notes, *self._cautions()],
            grids=[each.grid for each in scored],
            neighbours={name: image for name, (_, image) in copies.items()},
        )

    def _row(self, model: api.Model, spec: SampleSpec, floor: Row | None, most: int) -> Scored | None:
        """Draw the samples of one setting and score them."""
        what = f"{model.name}, {spec.steps} step{'s' * (spec.steps > 1)}"
        return score_row(
            model,
            spec,
            self.plan,
            self.wanted,
            self.real.reference,
            self.extractor,
            self.processes,
            floor=floor.scores.frechet_distance if floor is not None else None,
            real_lines=self._real_lines(model.recipe.model.patch),
            most=most,
            progress=self._tell(self.plan.count, what),
            tell=lambda part: self._tell_part(f"{what}: {part}"),
        )

    def _real_lines(self, patch: int) -> Tensor | None:
        """Powers (m, 2) of real images on the lines of a patch size, on the first process."""
        dataset = self.real.unseen
        if dataset is None or not self.processes.is_first:
            return None
        if patch not in self._lines:
            draw = real_draw(dataset, min(self.plan.count, MAX_LINES), self.plan.seed)
            parts = torch.arange(len(draw)).split(self.plan.batch)
            self._lines[patch] = torch.cat([line_powers(draw.gather(part), patch) for part in parts])
        return self._lines[patch]

    def _real_row(self) -> Row | None:
        """The score of as many real images, from the split that the reference is not."""
        dataset = self.real.held_out
        if dataset is None:
            return None
        draw = real_draw(dataset, self.plan.count, self.plan.seed)
        features = extract(
            draw,
            self.extractor,
            batch=self.plan.batch,
            processes=self.processes,
            progress=self._tell(len(draw), "real images"),
        )
        if features is None or self.real.reference is None:
            return None
        if dataset is self.real.test and features.logits is not None:
            self._unseen = (features.logits, dataset.labels[draw.indices])
        # Accuracy on images that the network learned from would say nothing.
        metrics = [metric for metric in self.wanted if metric != "acc"]
        scores = score(
            features, self.real.reference, self.extractor, metrics=metrics, quantise="none, they are bytes already"
        )
        return Row("real images", None, scores, floors=1.0 if scores.frechet_distance else None)

    def _accuracy_real(self) -> float | None:
        """Of images that no network was trained on, whichever side of the comparison they are on."""
        reference, test = self.real.reference, self.real.test
        if test is None or "acc" not in self.wanted or test.class_names != self.extractor.class_names:
            return None
        if self.real.compared == "test" and reference is not None and reference.features is not None:
            logits = reference.features.logits
            # Of a very large split the reference is a random part.
            if logits is not None and len(logits) == len(test):
                return float(right(logits, test.labels).double().mean())
        return float(right(*self._unseen).double().mean()) if self._unseen is not None else None

    def _reconstruction(self, model: api.Model) -> Reconstruction | None:
        """Give real images back, and compare each with its original."""
        wanted, dataset = [m for m in OF_RECONSTRUCTIONS if m in self.plan.wanted], self.real.unseen
        if not wanted or dataset is None:
            return None
        draw = real_draw(dataset, self.plan.reconstructions, self.plan.seed)
        labels = dataset.labels[draw.indices] if dataset.class_names == model.class_names else None
        network = self._lpips.to(model.device) if self._lpips is not None else None

        def work(numbers: Tensor) -> dict[str, Tensor]:
            originals = draw.gather(numbers)  # (B, 3, H, W)
            again = model.reconstruct(to_float(originals), None if labels is None else labels[numbers])
            pixels = to_uint8(again.cpu(), self.plan.quantise)
            found: dict[str, Tensor] = {}
            if "rfid" in wanted:
                found["originals"] = self.extractor(originals)["embedding"]
                found["embedding"] = self.extractor(pixels)["embedding"]
            if "psnr" in wanted:
                found["psnr"] = reconstruction.psnr(originals, pixels)
            if "ssim" in wanted:
                found["ssim"] = reconstruction.ssim(originals, pixels)
            if network is not None:
                found["lpips"] = reconstruction.lpips(network, originals, pixels)
            return found

        tell = self._tell(len(draw), f"{model.name}, reconstructions")
        found = self.processes.gather(len(draw), self.plan.batch, work, tell)
        if not self.processes.is_first:
            return None
        values = {name: found[name] for name in ("psnr", "ssim", "lpips") if name in found}
        means = {name: float(each.mean()) for name, each in values.items()}
        intervals: dict[str, Interval] = {}
        if self.plan.resamples and values:
            m = bootstrap.multiplicities(len(draw), self.plan.resamples, self.plan.seed)
            intervals = {
                name: bootstrap.interval(means[name], bootstrap.mean_replicates(each, m))
                for name, each in values.items()
            }
        split = "test" if dataset is self.real.test else "train"
        return Reconstruction(
            model.name,
            f"{dataset.name} {split}",
            len(draw),
            rfid=self._rfid(found["originals"], found["embedding"]) if "rfid" in wanted else None,
            **means,
            intervals=intervals,
        )

    def _rfid(self, originals: Tensor, reconstructions: Tensor) -> float | None:
        size = self.models[0].recipe.model.image_size
        reference = from_features("originals", Features(originals, None), self.extractor.name, size)
        return score(Features(reconstructions, None), reference, self.extractor, metrics=["fid"]).frechet_distance

    def _uniformity(self, model: api.Model) -> uniformity.UniformityByClass | None:
        """How evenly the latents of training images lie on the sphere."""
        dataset = self.real.train
        if "uniformity" not in self.plan.wanted or dataset is None:
            return None
        draw = real_draw(dataset, uniformity.MAX_POINTS, self.plan.seed)
        labels = dataset.labels[draw.indices]
        own = labels if dataset.class_names == model.class_names else None

        def work(numbers: Tensor) -> dict[str, Tensor]:
            images = to_float(draw.gather(numbers))
            return {"latents": model.encode(images, None if own is None else own[numbers]).float().cpu()}

        found = self.processes.gather(len(draw), self.plan.batch, work, self._tell(len(draw), f"{model.name}, latents"))
        if not self.processes.is_first:
            return None
        told = self._tell_part(f"{model.name}: uniform draw")
        return uniformity.uniformity_by_class(
            found["latents"], labels, dataset.class_names, seed=self.plan.seed, progress=told
        )

    def _memorisation(self, model: api.Model, pixels: Tensor) -> tuple[memorisation.Memorisation, Tensor]:
        """Near-copies among the samples, and the nearest of them as an image."""
        train, test = self.real.train, self.real.test
        assert train is not None, "checked before anything was drawn"
        assert test is not None, "checked before anything was drawn"
        tell = self._tell(len(train) + min(memorisation.MAX_TEST, len(test)) + len(pixels), "near-copies")
        found = memorisation.memorisation(
            pixels,
            train,
            test,
            lambda images: self.extractor(images)["embedding"],
            train_features=self._train_features(len(train)),
            mirrored=model.recipe.data.flip,
            seed=self.plan.seed,
            progress=tell,
        )
        return found, memorisation.neighbour_image(found, pixels, train)

    def _train_features(self, count: int) -> Tensor | None:
        """(N, D) of all training images, where they are the reference."""
        reference = self.real.reference
        if self.real.compared != "train" or reference is None or reference.features is None:
            return None
        return reference.features.embedding if len(reference.features) == count else None

    def _drop_unavailable(self) -> None:
        """Leave out what cannot be had here, with a note; what was asked by name is an error."""
        assert self.real.reference is not None
        missing = unavailable(self.wanted, self.real.reference, self.extractor) | self._without_images()
        if missing and self.plan.metrics is not None:
            told = " ".join(dict.fromkeys(missing.values()))
            raise UsageError(told, f"Leave {', '.join(missing)} out of --metrics.")
        self.wanted = tuple(metric for metric in self.wanted if metric not in missing)
        self.notes += dict.fromkeys(missing.values())

    def _without_images(self) -> dict[str, str]:
        """What needs images that are not at hand, or classes that the network does not know."""
        missing: dict[str, str] = {}
        for metric in self.wanted:
            if metric in OF_RECONSTRUCTIONS and self.real.unseen is None:
                missing[metric] = "The models' data set is not at hand, so there are no images to reconstruct."
            if metric == "uniformity" and self.real.train is None:
                missing[metric] = "The models' training set is not at hand, so there are no latents to look at."
            strangers = [model.name for model in self.models if model.class_names != self.extractor.class_names]
            if metric == "acc" and self.extractor.class_names and strangers:
                missing[metric] = f"{self.extractor.name} does not know the classes of {', '.join(strangers)}."
        return missing

    def _cautions(self) -> Iterator[str]:
        if self.real.held_out is None:
            yield "No real images beside the reference are at hand, so nothing says what a perfect model would get."
        if "fid" in self.wanted and self.plan.count < MIN_FID_IMAGES:
            yield (
                f"{self.plan.count:,} samples: a Frechet distance is biased upward by few samples, the more the fewer. "
                "KID is not, so it stands first. Compare distances of equal counts alone."
            )
        if not self.extractor.is_inception:
            yield (
                f"Distances and scores are of the features of {self.extractor.name}: they compare with each other, "
                "never with published FID or Inception Scores."
            )

    def _count_images(self) -> int:
        plan, total = self.plan, 0
        total += sum(len(settings) for settings in self.settings) * plan.count
        if self.real.held_out is not None:
            total += min(plan.count, len(self.real.held_out))
        if self.real.unseen is not None and any(m in plan.wanted for m in OF_RECONSTRUCTIONS):
            total += len(self.models) * min(plan.reconstructions, len(self.real.unseen))
        if self.real.train is not None and "uniformity" in plan.wanted:
            total += len(self.models) * min(uniformity.MAX_POINTS, len(self.real.train))
        if self.processes.is_first and "memorisation" in plan.wanted:
            train, test = len(self.real.train or ()), len(self.real.test or ())
            looked_at = min(plan.count, memorisation.MAX_SAMPLES)
            total += len(self.models) * (train + min(memorisation.MAX_TEST, test) + looked_at)
        return total

    def _tell_part(self, what: str) -> Progress:
        """Progress of what is not counted in images, told in words."""

        def tell(done: int, total: int, _: str = "", /) -> None:
            if self._progress is not None:
                self._progress(self._done, self._total, f"{what} {done} of {total}")

        return tell

    def _tell(self, count: int, what: str) -> Progress | None:
        """Progress of one part as progress of the whole."""
        before = self._done
        self._done += count
        return part_of(self._progress, before, self._total, what)


def _check(models: Sequence[api.Model], real: Real, extractor: Extractor, plan: Plan) -> None:
    """Refuse what could not be measured in the end, before anything is drawn."""
    if not models:
        raise UsageError("There is no model to evaluate.")
    sizes = {model.name: model.recipe.model.image_size for model in models}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        raise UsageError(f"Models of several image sizes have no reference in common: {told}.", "Evaluate them apart.")
    if len(sizes) < len(models):
        raise UsageError("Two of the models have one name, so their rows could not be told apart.")
    for model in models:
        if extractor.scorer is not None:
            check_independent(model.recipe, extractor.scorer)
    if "memorisation" in plan.wanted:
        if real.train is None or real.test is None:
            raise UsageError(
                "Near-copies are told from chance by the distances of test images: that needs the training and the "
                "test images of the model's data set.",
                "Leave memorisation out of --metrics, or give the data set with --data.",
            )
        memorisation.check_sets(real.train, real.test)
