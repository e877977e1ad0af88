"""A whole evaluation against its parts computed by hand, on models whose samples are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import vgg16

from spherectl import api
from spherectl.data.datasets import ImageSet, MemoryImages
from spherectl.data.transforms import to_float, to_uint8
from spherectl.errors import SpherectlError, UsageError
from spherectl.evaluation import reconstruction, uniformity
from spherectl.evaluation.embeddings import real_draw
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import fidelity
from spherectl.evaluation.protocol import Plan, Real, Report
from spherectl.evaluation.reference import of_images, read_statistics, save_statistics
from spherectl.evaluation.run import evaluate
from spherectl.evaluation.spectrum import line_powers, patch_lines
from spherectl.features import imagenet
from spherectl.model.formats.weights import Package, read_tensors
from spherectl.model.sphere import build
from spherectl.recipe import Recipe, SampleSpec

Sets = tuple[ImageSet, ImageSet]

TABLE: dict[str, Any] = {
    "name": "known",
    "model": {"image_size": 32, "patch_size": 8, "size": "nano", "num_classes": 10, "compression_ratio": 24},
    "data": {"kind": "fashion-mnist", "fit": "pad", "flip": False, "channels": "grey"},
    "loss": {"perceptual": "features:fashion-features"},
    "run": {"length_images": 8},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model(lively: Callable[[Recipe], Package], excerpt: Sets) -> Callable[..., api.Model]:
    """`make_model(name, image_size=...)`: a small model of fixed weights that knows the garments' classes."""

    def make(name: str = "known", **changes: Any) -> api.Model:
        recipe = Recipe.model_validate({**TABLE, "model": {**TABLE["model"], **changes}})
        network = build(recipe.model)
        network.load_state_dict(lively(recipe).weights)
        header = {"recipe": recipe.model_dump(mode="json"), "weights": "raw", "images_seen": 8}
        header["class_names"] = list(excerpt[0].class_names) if recipe.model.num_classes == 10 else []
        network.eval().requires_grad_(False)
        return api.Model(network, header, name=name, device=torch.device("cpu"))

    return make


@pytest.fixture
def real(excerpt: Sets, scorer: Extractor) -> Real:
    return Real(of_images(excerpt[1], scorer, what="test"), *excerpt, "test")


@pytest.fixture
def samples_garments(excerpt: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models give training images of the asked classes; one step shows them upside down."""
    train = excerpt[0]
    by_class = train.labels.argsort(stable=True).reshape(10, 30)

    def sample(_: api.Model, indices: Tensor, labels: Tensor, settings: SampleSpec, seed: int) -> Tensor:
        images = to_float(train.gather(by_class[labels, (indices // 10 + seed) % 30]))
        return images.flip(2) if settings.steps == 1 else images

    monkeypatch.setattr(api, "sample_indices", sample)


def run(models: list[api.Model], plan: Plan, real: Real, scorer: Extractor, **options: Any) -> Report:
    report = evaluate(models, plan, real, scorer, **options)
    assert report is not None
    return report


@pytest.mark.fast
@pytest.mark.usefixtures("samples_garments")
def test_scores_are_those_of_the_images(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor, excerpt: Sets
) -> None:
    plan = Plan(steps=(1, 4), guidance=(1.0,), count=120, metrics=["fid", "kid", "is", "prc", "acc"], resamples=10)
    told: list[tuple[int, int]] = []
    report = run([make_model()], plan, real, scorer, progress=lambda done, total, *_: told.append((done, total)))
    train, test = excerpt
    by_class = train.labels.argsort(stable=True).reshape(10, 30)
    labels = torch.arange(120) % 10
    pixels = train.gather(by_class[labels, torch.arange(120) // 10])
    for row, samples in zip(report.rows, (pixels.flip(2), pixels), strict=True):
        expected = fidelity(samples, test, scorer, metrics=plan.wanted, labels=labels)
        for name in ("frechet_distance", "kid", "inception_score", "precision", "recall", "accuracy"):
            assert getattr(row.scores, name) == pytest.approx(getattr(expected, name), rel=1e-9), name
        assert set(row.intervals) == {"frechet_distance", "kid", "inception_score", "accuracy"}
        for name, (low, high) in row.intervals.items():
            assert low < getattr(row.scores, name) < high
        assert row.channel_spread == 0
        powers = line_powers(samples, 8), line_powers(real_draw(test, 120, 0).gather(torch.arange(100)), 8)
        assert row.patch_lines == patch_lines(*powers)
        assert (row.scores.features, row.scores.reference) == ("fashion-scorer", "fashion-mnist test, 100 images")
        assert (row.scores.count, row.scores.quantise) == (120, "round")
    assert report.real_row is not None
    same_number = real_draw(train, 120, 0).gather(torch.arange(120))
    of_real = fidelity(same_number, test, scorer, metrics=["fid"]).frechet_distance
    assert report.real_row.scores.frechet_distance == pytest.approx(of_real, rel=1e-9)
    assert report.real_row.scores.accuracy is None  # the network learned from them
    for row in report.rows:
        assert row.fd_ratio == pytest.approx(row.scores.frechet_distance / of_real)
    correct = scorer(test.gather(torch.arange(100)))["logits"].argmax(1) == test.labels
    assert report.accuracy_real == pytest.approx(float(correct.double().mean()))
    assert told[-1] == (360, 360)
    assert any("120 samples" in note for note in report.notes)


@pytest.mark.fast
@pytest.mark.usefixtures("samples_garments")
def test_rows_are_compared_with_fewer_steps_and_with_the_first_model(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor
) -> None:
    plan = Plan(steps=(1, 2), guidance=(1.0, 2.0), count=40, metrics=["acc"], resamples=5)
    report = run([make_model("a"), make_model("b")], plan, real, scorer)
    assert len(report.rows) == 8
    pairs = [(one.first, one.second) for one in report.comparisons]

    def label(model: str, steps: int, scale: int) -> str:
        return f"{model}, {steps} step{'s' * (steps > 1)}, guidance {scale}"

    expected = {(label(m, s, g), label(m, f, g)) for m in "ab" for f, s in ((1, 2),) for g in (1, 2)}
    expected |= {(label("b", s, g), label("a", s, g)) for s in (1, 2) for g in (1, 2)}
    assert len(pairs) == len(set(pairs)) == 8
    assert set(pairs) == expected
    accuracy = {row.label: row.scores.accuracy for row in report.rows}
    for one in report.comparisons:
        difference = accuracy[one.first] - accuracy[one.second]  # type: ignore[operator]
        assert one.difference.value == pytest.approx(difference)
        if (one.first[0], one.second[0]) == ("b", "a"):  # the same images: paired, so nothing is left to chance
            assert (one.difference.low, one.difference.high) == (0, 0)


@pytest.mark.fast
def test_samples_become_bytes_by_the_asked_rule(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(_: api.Model, indices: Tensor, *__: Any) -> Tensor:
        images = torch.full((len(indices), 3, 32, 32), 127.6 / 255)
        images[:, 1, 0, 0] = 1.0
        return images

    monkeypatch.setattr(api, "sample_indices", sample)
    for rule, level in (("round", 128), ("floor", 127)):
        report = run([make_model()], Plan(count=20, quantise=rule, metrics=["fid"], resamples=0), real, scorer)
        (row,) = report.rows
        assert (row.channel_spread, row.scores.quantise, row.intervals) == (255 - level, rule, {})
        assert report.grids[0].pixels.unique().tolist() == [level, 255]


@pytest.mark.fast
def test_reconstructions_are_those_of_the_model_with_the_images_own_classes(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor, excerpt: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LPIPS with random weights, for the real ones are not here."""
    torch.manual_seed(0)
    heads = [torch.rand(width) for width in (64, 128, 256, 512, 512)]
    network = imagenet.LpipsFeatures(vgg16(weights=None).features, heads).eval().requires_grad_(False)
    monkeypatch.setattr(imagenet, "load_lpips", lambda: network)
    model = make_model()
    plan = Plan(count=10, metrics=["rfid", "psnr", "ssim", "lpips"], reconstructions=8, resamples=5)
    (one,) = run([model], plan, real, scorer).reconstructions
    draw = real_draw(excerpt[1], 8, 0)
    originals = draw.gather(torch.arange(8))
    again = to_uint8(model.reconstruct(to_float(originals), excerpt[1].labels[draw.indices]))
    errors = (to_float(originals) - to_float(again)).double().square().mean((1, 2, 3))
    assert one.psnr == pytest.approx(float((-10 * errors.log10()).mean()), rel=1e-6)
    assert one.rfid == pytest.approx(fidelity(again, originals, scorer, metrics=["fid"]).frechet_distance, rel=1e-6)
    assert one.ssim == pytest.approx(float(reconstruction.ssim(originals, again).mean()), rel=1e-6)
    assert one.lpips == pytest.approx(float(reconstruction.lpips(network, originals, again).mean()), rel=1e-5)
    assert one.lpips > 0
    assert (one.count, one.images, set(one.intervals)) == (8, "fashion-mnist test", {"psnr", "ssim", "lpips"})


@pytest.mark.fast
@pytest.mark.usefixtures("samples_garments")
def test_without_real_images_statistics_give_a_distance_and_the_rest_is_told(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor, tmp_path: Path
) -> None:
    assert real.reference is not None
    save_statistics(tmp_path / "real.npz", real.reference)
    bare = Real(read_statistics(tmp_path / "real.npz", scorer, 32))
    report = run([make_model()], Plan(count=30, resamples=5), bare, scorer)
    row = report.rows[0]
    assert row.scores.frechet_distance is not None
    assert (row.fd_ratio, row.scores.kid, row.scores.precision) == (None, None, None)
    assert (report.real_row, report.reconstructions, report.accuracy_real) == (None, [], None)
    assert sum("mean and covariance alone" in note for note in report.notes) == 2
    with pytest.raises(UsageError, match="KID compares features image by image") as caught:
        evaluate([make_model()], Plan(count=30, metrics=["fid", "kid"]), bare, scorer)
    assert caught.value.hint == "Leave kid out of --metrics."
    for metric, sentence in (("psnr", "no images to reconstruct"), ("uniformity", "no latents to look at")):
        with pytest.raises(UsageError, match=sentence):
            evaluate([make_model()], Plan(count=30, metrics=[metric]), bare, scorer)


@pytest.mark.fast
def test_accuracy_on_real_images_is_of_the_test_images_where_training_images_are_the_reference(
    make_model: Callable[..., api.Model], scorer: Extractor, excerpt: Sets
) -> None:
    real = Real(of_images(excerpt[0], scorer, what="train"), *excerpt, "train")
    found = run([make_model()], Plan(count=100, metrics=["acc"], resamples=0), real, scorer).accuracy_real
    correct = scorer(excerpt[1].gather(torch.arange(100)))["logits"].argmax(1) == excerpt[1].labels
    assert found == pytest.approx(float(correct.double().mean()))


@pytest.mark.fast
def test_uniformity_is_of_the_latents_of_training_images(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor, excerpt: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def note(points: Tensor, labels: Tensor, names: tuple[str, ...], **_: Any) -> str:
        seen.append((points, labels))
        assert names == excerpt[0].class_names
        return "found"

    monkeypatch.setattr(uniformity, "uniformity_by_class", note)
    monkeypatch.setattr(uniformity, "MAX_POINTS", 50)
    model = make_model()
    report = run([model], Plan(count=10, metrics=["uniformity"], resamples=0), real, scorer)
    assert report.uniformity == {"known": "found"}
    draw = real_draw(excerpt[0], 50, 0)
    labels = excerpt[0].labels[draw.indices]
    expected = model.encode(to_float(draw.gather(torch.arange(50))), labels)
    torch.testing.assert_close(seen[0][0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen[0][1], labels)


@pytest.mark.fast
@pytest.mark.usefixtures("samples_garments")
def test_samples_that_are_training_images_are_near_copies(
    make_model: Callable[..., api.Model], scorer: Extractor, excerpt: Sets
) -> None:
    """With the splits changed: 300 images to set a threshold with, and the same to train on."""
    train, test = excerpt
    assert isinstance(train, MemoryImages)
    real = Real(of_images(test, scorer), train, train, "test")
    plan = Plan(steps=(1, 4), count=40, metrics=["memorisation"], resamples=0)
    report = run([make_model()], plan, real, scorer)
    found = report.memorisation["known"]
    assert found.summary().samples == 40
    # Of the row with the most steps, which gives them as they are.
    assert float(found.samples.pixel_distance.max()) == 0
    assert report.neighbours["known"].shape[0] == 3


@pytest.mark.fast
def test_what_could_not_be_measured_in_the_end_is_refused_first(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor, excerpt: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError("nothing is sampled")

    monkeypatch.setattr(api, "sample_indices", never)
    model, alone = make_model(), Real(real.reference)
    for sentence, models, plan, known in (
        (r"several image sizes .* a 32 px, b 64 px", [make_model("a"), make_model("b", image_size=64)], Plan(), real),
        ("have one name", [model, model], Plan(), real),
        ("unconditional: guidance needs classes", [make_model(num_classes=0)], Plan(guidance=(1.4,)), real),
        ("training and the test images", [model], Plan(metrics=["memorisation"]), alone),
        ("needs at least 198 of them", [model], Plan(metrics=["memorisation"]), real),
    ):
        with pytest.raises(UsageError, match=sentence):
            evaluate(models, plan, known, scorer)
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(SpherectlError, match=r"vgg16-397923af\.pth is missing"):
        evaluate([model], Plan(metrics=["lpips"]), real, scorer)


@pytest.mark.fast
def test_an_unconditional_model_is_scored_without_classes(
    make_model: Callable[..., api.Model], real: Real, scorer: Extractor
) -> None:
    plan = Plan(steps=(1,), count=10, reconstructions=10, resamples=5)
    report = run([make_model(num_classes=0)], plan, real, scorer)
    assert report.rows[0].scores.accuracy is None
    assert "fashion-scorer does not know the classes of known." in report.notes
    with pytest.raises(UsageError, match="does not know the classes of known"):
        evaluate([make_model(num_classes=0)], Plan(metrics=["acc"]), real, scorer)
    assert report.rows[0].scores.frechet_distance is not None
    assert report.reconstructions[0].psnr is not None


SCRIPT = """
import dataclasses, json, sys
import torch
from pathlib import Path
from spherectl import api
from spherectl.data.datasets import open_dataset
from spherectl.evaluation.extractors import open_extractor
from spherectl.evaluation.protocol import Plan, Real
from spherectl.evaluation.embeddings import extract
from spherectl.evaluation.reference import of_images
from spherectl.evaluation.scoring import Samples
from spherectl.evaluation.run import evaluate
from spherectl.model.formats.weights import save_file
from spherectl.processes import joined

folder, excerpt, inception = map(Path, sys.argv[1:])
with joined() as processes:
    model, scorer = api.load("fashion-mnist", device="cpu"), open_extractor("fashion-scorer")
    spec = api.sample_settings(model, steps=2)
    labels = api.spread_classes(model, 150, None)
    samples = Samples(model, spec, 0, labels, 150, "round")
    found = extract(samples, scorer, processes=processes)
    few = Samples(model, spec, 0, labels[:70], 70, "round")
    others = extract(few, open_extractor(f"inception:{inception}"), processes=processes)
    train, test = (open_dataset(model.recipe.data, 32, root=excerpt, split=split) for split in ("train", "test"))
    real = Real(of_images(test, scorer, processes=processes), train, test, "test")
    metrics = ["fid", "kid", "is", "prc", "acc", "rfid", "psnr", "ssim"]
    plan = Plan(steps=(1, 2), count=150, reconstructions=90, resamples=20, metrics=metrics)
    report = evaluate([model], plan, real, scorer, processes=processes)
    if processes.is_first:
        save_file(folder / "features.safetensors", {"scorer": found.embedding, "inception": others.embedding}, {})
        rows = [dataclasses.asdict(one) for one in (*report.rows, report.real_row, *report.reconstructions)]
        differences = [dataclasses.asdict(one) for one in report.comparisons]
        (folder / "report.json").write_text(json.dumps({"rows": rows, "differences": differences}))
"""


@pytest.mark.slow
def test_one_process_and_two_have_the_same_features_and_scores(
    tmp_path: Path, fashion_excerpt: Path, inception_file: Path
) -> None:
    """Alone with two threads, and as two processes with one thread each, as torchrun sets it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for name, start in (("one", []), ("two", torchrun)):
        (tmp_path / name).mkdir()
        command = [sys.executable, *start, tmp_path / "script.py", tmp_path / name, fashion_excerpt, inception_file]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / name / "report.json").read_text())
        found.append((read_tensors(tmp_path / name / "features.safetensors"), report))
    (features, report), (others, again) = found
    assert features["scorer"].shape == (150, 128)
    assert features["inception"].shape == (70, 2048)
    for name in features:
        assert torch.equal(features[name], others[name]), name
    compare(report, again)


def compare(one: Any, other: Any, place: str = "") -> None:
    """Equal, scores to 1e-9; but for the seconds, which differ.

    Ends of intervals agree to 1e-6: replicates of so few samples have roots of eigenvalues that are rounding alone, and
    LAPACK rounds otherwise with other numbers of threads.
    """
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one.keys() - {"seconds"}:
            compare(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            compare(a, b, f"{place}[{number}]")
    elif isinstance(one, float):
        end = ".intervals." in place or place.endswith((".low", ".high"))
        assert one == pytest.approx(other, rel=1e-6 if end else 1e-9, abs=1e-12), place
    else:
        assert one == other, place
