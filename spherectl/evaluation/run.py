"""The evaluation of one or several models: `evaluate`, and below it its steps, each a function of a `Task`.

Image i of every row has the same noise and class, so rows are compared image by image: the bootstrap resamples them
together. A row of real images, taken from the other split as evenly over the classes as the samples are, says what a
perfect model would get.

Letters: n samples, B batch, H and W image sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from spherectl import api
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import UsageError
from spherectl.evaluation import bootstrap
from spherectl.evaluation import memorisation as copies
from spherectl.evaluation import uniformity as evenness
from spherectl.evaluation.embeddings import Features, real_draw
from spherectl.evaluation.extractors import Extractor, default_features, open_extractor
from spherectl.evaluation.fidelity import unavailable
from spherectl.evaluation.metrics import METRICS, MIN_FID_IMAGES, Measured, chosen, correct
from spherectl.evaluation.protocol import Bar, Plan, Real, Reconstruction, Report, Task
from spherectl.evaluation.real import open_real
from spherectl.evaluation.reference import from_features
from spherectl.evaluation.scoring import Scored, compare, lines_of_real_images, score_real_images, score_samples
from spherectl.features.independence import check_independent
from spherectl.processes import Processes
from spherectl.progress import Progress


def evaluate(
    models: Sequence[api.Model],
    plan: Plan | None = None,
    real: Real | str | Path | None = None,
    extractor: Extractor | str | None = None,
    *,
    data: str | Path | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Report | None:
    """Measure models.

    Args:
        models: at least one, all of one image size; with several, each is compared with the first.
        plan: what to sample and to measure.
        real: the images to compare with, or their name as `open_real` takes it; None: the training set, as in the
            paper, or the test set for a scoring network.
        extractor: the network that scores, or its name as `open_extractor` takes it; None: the zoo's for the data of
            the first model, else Inception.
        data: where the models' data set is, if not where its recipe says.
        processes: those that share the work; each samples and looks at its own part.
        progress: called with images done, images in all and what is going on, in this process alone.

    Returns:
        On the first process the report; None on the others.

    Raises:
        UsageError: models of several sizes, a setting out of range, a network that is a model's own loss, or a metric
            that needs images or a package that is not there; before anything is sampled.
        SpherectlError: LPIPS is asked for and its weights cannot be fetched.

    >>> from pathlib import Path
    >>> import spherectl
    >>> from spherectl.evaluation import Plan, evaluate
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> (batch,) = spherectl.generate(model, 10, steps=1)
    >>> Path("real").mkdir()  # here images of the model itself stand for real ones
    >>> for number, image in enumerate(batch.pil()):
    ...     image.save(f"real/{number}.png")
    >>> plan = Plan(steps=(1,), count=10, metrics=["kid", "acc"], resamples=0)
    >>> report = evaluate([model], plan, "real")
    >>> [(row.model, row.settings["steps"], row.scores.count) for row in report.rows]
    [('fashion-mnist', 1, 10)]
    """
    task, notes = prepare(models, plan or Plan(), real, extractor, data, processes or Processes(), progress)
    settings = [task.plan.settings(model) for model in models]
    real_row, real_features = score_real_images(task)
    scored: list[Scored] = []
    kept: dict[str, Tensor] = {}  # samples
    for model, own in zip(models, settings, strict=True):
        lines = lines_of_real_images(task, model.recipe.model.patch)
        for spec in own:
            # Near-copies are looked for among the samples of the last setting, the one with the most steps.
            wanted = copies.MAX_SAMPLES if spec is own[-1] and "memorisation" in task.metrics else 0
            row = score_samples(task, model, spec, real_row, lines, kept=wanted)
            if row is not None:
                scored.append(row)
                kept |= {model.name: row.pixels} if wanted else {}
    reconstructions = [reconstruct(task, model) for model in models]
    latents = {model.name: uniformity(task, model) for model in models}
    if not task.processes.is_first:
        return None
    found = {model.name: memorisation(task, model, kept[model.name]) for model in models if model.name in kept}
    return Report(
        models,
        task.plan,
        task.real,
        task.extractor,
        accuracy_real=accuracy_of_real_images(task, real_features),
        rows=[one.row for one in scored],
        real_row=real_row,
        comparisons=list(compare(scored, settings)),
        reconstructions=[one for one in reconstructions if one is not None],
        uniformity={name: one for name, one in latents.items() if one is not None},
        memorisation={name: one for name, (one, _) in found.items()},
        notes=[*task.real.notes, *notes, *cautions(task)],
        grids=[one.grid for one in scored],
        neighbours={name: image for name, (_, image) in found.items()},
    )


def prepare(
    models: Sequence[api.Model],
    plan: Plan,
    real: Real | str | Path | None,
    extractor: Extractor | str | None,
    data: str | Path | None,
    processes: Processes,
    progress: Progress | None,
) -> tuple[Task, list[str]]:
    """Open what is named, and refuse what could not be measured in the end.

    Returns:
        What the steps share, and notes on what cannot be measured here; what was asked by name is an error.

    Raises:
        UsageError, SpherectlError: as `evaluate`.
    """
    _check_models(models)
    for model in models:
        plan.settings(model)
    recipe, device = models[0].recipe, models[0].device
    with processes.first_goes_first():
        if not isinstance(extractor, Extractor):
            extractor = open_extractor(extractor or default_features(recipe.data.kind), device)
        for model in models:
            if extractor.scorer is not None:
                check_independent(model.recipe, extractor.scorer)
    if not isinstance(real, Real):
        real = open_real(real, recipe, extractor, data=data, processes=processes, progress=progress)
    with processes.first_goes_first():
        missing = _missing(models, plan, real, extractor) if processes.is_first else {}
        notes = list(dict.fromkeys(missing.values()))
        if notes and plan.metrics is not None:
            raise UsageError(" ".join(notes), f"Leave {', '.join(missing)} out of --metrics.")
    metrics = tuple(name for name in plan.wanted if processes.agree(name not in missing))
    if "memorisation" in metrics and real.train is not None and real.test is not None:
        copies.check_sets(real.train, real.test)
    with processes.first_goes_first():  # a download, or a package that is missing: now rather than in the end
        functions = {
            metric.scores[0].key: metric.compare(device)
            for metric in chosen(metrics, "reconstructions")
            if metric.compare is not None
        }
    bar = Bar(progress, _count_images(models, plan, real, metrics, is_first=processes.is_first))
    return Task(models, plan, real, extractor, metrics, functions, processes, bar), notes


def reconstruct(task: Task, model: api.Model) -> Reconstruction | None:
    """Give real images back, and compare each with its original; None where no such metric is wanted."""
    metrics, dataset, plan = chosen(task.metrics, "reconstructions"), task.real.unseen, task.plan
    if not metrics or dataset is None:
        return None
    draw = real_draw(dataset, plan.reconstructions, plan.seed)
    labels = dataset.labels[draw.indices] if dataset.class_names == model.class_names else None
    of_features = [metric.compute for metric in metrics if metric.compute is not None]

    def work(numbers: Tensor) -> dict[str, Tensor]:
        originals = draw.gather(numbers)  # (B, 3, H, W)
        again = model.reconstruct(to_float(originals), None if labels is None else labels[numbers])
        pixels = to_uint8(again.cpu(), plan.quantise)
        found = {key: function(originals, pixels) for key, function in task.compare.items()}  # (B,) each
        if of_features:
            found |= {"originals": task.extractor(originals)["embedding"]}  # (B, D)
            found |= {"embedding": task.extractor(pixels)["embedding"]}
        return found

    progress = task.bar.part(len(draw), f"{model.name}, reconstructions")
    found = task.processes.gather(len(draw), plan.batch, work, progress)
    if not task.processes.is_first:
        return None
    values: dict[str, float] = {}
    if of_features:
        size = model.recipe.model.image_size
        originals = from_features("originals", Features(found["originals"], None), task.extractor.name, size)
        for compute in of_features:
            values |= compute(Measured(Features(found["embedding"], None), originals))
    values |= {key: float(found[key].mean()) for key in task.compare}
    intervals = {}
    if plan.resamples:
        m = bootstrap.multiplicities(len(draw), plan.resamples, plan.seed)
        for key in task.compare:
            intervals[key] = bootstrap.interval(values[key], bootstrap.mean_replicates(found[key], m))
    split = "test" if dataset is task.real.test else "train"
    return Reconstruction(model.name, f"{dataset.name} {split}", len(draw), values, intervals)


def uniformity(task: Task, model: api.Model) -> evenness.UniformityByClass | None:
    """How evenly the latents of training images lie on the sphere; None where it is not wanted."""
    dataset, plan = task.real.train, task.plan
    if "uniformity" not in task.metrics or dataset is None:
        return None
    draw = real_draw(dataset, evenness.MAX_POINTS, plan.seed)
    labels = dataset.labels[draw.indices]
    own = labels if dataset.class_names == model.class_names else None

    def work(numbers: Tensor) -> dict[str, Tensor]:
        images = to_float(draw.gather(numbers))
        return {"latents": model.encode(images, None if own is None else own[numbers]).float().cpu()}

    progress = task.bar.part(len(draw), f"{model.name}, latents")
    found = task.processes.gather(len(draw), plan.batch, work, progress)
    if not task.processes.is_first:
        return None
    aside = task.bar.aside(f"{model.name}: set of uniform points")
    return evenness.uniformity_by_class(found["latents"], labels, dataset.class_names, seed=plan.seed, progress=aside)


def memorisation(task: Task, model: api.Model, pixels: Tensor) -> tuple[copies.Memorisation, Tensor]:
    """Near-copies among samples (n, 3, H, W) of a model, and the nearest of them as an image."""
    train, test, reference = task.real.train, task.real.test, task.real.reference
    assert train is not None, "a need that was checked"
    assert test is not None, "a need that was checked"
    features = None  # (N, D) of all training images, where they are the reference
    if task.real.compared == "train" and reference is not None and reference.features is not None:
        features = reference.features.embedding if len(reference.features) == len(train) else None
    found = copies.memorisation(
        pixels,
        train,
        test,
        lambda images: task.extractor(images)["embedding"],
        train_features=features,
        mirrored=model.recipe.data.flip,
        seed=task.plan.seed,
        progress=task.bar.part(len(train) + min(copies.MAX_TEST, len(test)) + len(pixels), "near-copies"),
    )
    return found, copies.neighbour_image(found, pixels, train)


def accuracy_of_real_images(task: Task, held_out: Features | None) -> float | None:
    """Share of test images whose class the scoring network finds, whichever side of the comparison they are on.

    Args:
        task: what is measured.
        held_out: features of the images of `Real.held_out` in the real images' row.
    """
    real, test = task.real, task.real.test
    if test is None or "acc" not in task.metrics or test.class_names != task.extractor.class_names:
        return None
    if real.compared == "test" and real.reference is not None and real.reference.features is not None:
        logits, labels = real.reference.features.logits, test.labels
        if logits is not None and len(logits) < len(test):  # of a very large split the reference is a random part
            return None
    elif held_out is not None and real.held_out is test:
        logits, labels = held_out.logits, test.labels[real_draw(test, task.plan.count, task.plan.seed).indices]
    else:
        return None
    return None if logits is None else float(correct(logits, labels).double().mean())


def cautions(task: Task) -> Iterator[str]:
    """What to beware of when the report is read."""
    if task.real.held_out is None:
        yield "No real images beside the reference are at hand, so nothing says what a perfect model would get."
    if "fid" in task.metrics and task.plan.count < MIN_FID_IMAGES:
        yield (
            f"{task.plan.count:,} samples: a Frechet distance is biased upward by few samples, the more the fewer. "
            "KID is not, so it stands first. Compare distances of equal counts alone."
        )
    if not task.extractor.is_inception:
        yield (
            f"Distances and scores are of the features of {task.extractor.name}: they compare with each other, "
            "never with published FID or Inception Scores."
        )


def _check_models(models: Sequence[api.Model]) -> None:
    if not models:
        raise UsageError("There is no model to evaluate.")
    sizes = {model.name: model.recipe.model.image_size for model in models}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        raise UsageError(f"Models of several image sizes have no reference in common: {told}.", "Evaluate them apart.")
    if len(sizes) < len(models):
        raise UsageError("Two of the models have one name, so their rows could not be told apart.")


def _missing(models: Sequence[api.Model], plan: Plan, real: Real, extractor: Extractor) -> dict[str, str]:
    """The wanted metrics that cannot be had, each with the reason; on the first process, which has the reference."""
    assert real.reference is not None
    splits = (real.train is not None, real.test is not None)
    there = {"images": any(splits), "training images": splits[0], "both splits": all(splits)}
    met = [need for need, is_there in there.items() if is_there]
    missing = unavailable(plan.wanted, real.reference, extractor, plan.count, met)
    strangers = [model.name for model in models if model.class_names != extractor.class_names]
    for name in plan.wanted if strangers else ():
        if "classes" in METRICS[name].needs:
            missing.setdefault(name, f"{extractor.name} does not know the classes of {', '.join(strangers)}.")
    return missing


def _count_images(
    models: Sequence[api.Model], plan: Plan, real: Real, metrics: Sequence[str], *, is_first: bool
) -> int:
    """Images in all, for the progress."""
    total = sum(len(plan.settings(model)) for model in models) * plan.count
    if real.held_out is not None:
        total += min(plan.count, len(real.held_out))
    if real.unseen is not None and chosen(metrics, "reconstructions"):
        total += len(models) * min(plan.reconstructions, len(real.unseen))
    if real.train is not None and "uniformity" in metrics:
        total += len(models) * min(evenness.MAX_POINTS, len(real.train))
    if is_first and "memorisation" in metrics:
        looked_at = min(copies.MAX_TEST, len(real.test or ())) + min(plan.count, copies.MAX_SAMPLES)
        total += len(models) * (len(real.train or ()) + looked_at)
    return total
