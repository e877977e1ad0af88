"""`spherectl evaluate`: tables, files, references, mistakes, and several processes."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from spherectl import api
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import adm_crop, as_image
from spherectl.editing.fitting import fit
from spherectl.errors import UsageError
from spherectl.images import read_provenance
from spherectl.recipe import DataSpec
from tests.evaluation.conftest import write_pngs
from tests.forked import Ended

Run = Callable[..., Result]


@pytest.fixture
def evaluate(command: Run, fashion_excerpt: Path) -> Run:
    """`evaluate(...)` of the embedded model on the excerpt, small and quick."""

    def run(*arguments: Any, model: str = "fashion-mnist") -> Result:
        small = ["--count", 20, "--reconstructions", 20, "--bootstrap", 5, "--threads", 1, "--data", fashion_excerpt]
        return command("evaluate", model, *small, *arguments)

    return run


@pytest.mark.fast
def test_tables_go_to_stdout_and_the_story_to_stderr(evaluate: Run, files: Callable[[], list[str]]) -> None:
    result = evaluate("--steps", "1,2")
    assert result.exit_code == 0, result.stderr
    for part in (
        "features: fashion-scorer; reference: fashion-mnist test, 100 images",
        "samples: 20 a row",
        "Frechet distance",
        "FD ratio",
        "real images",
        "less that of",
        "PSNR, dB",
        "on real test images",
    ):
        assert part in result.stdout, part
    assert "note: 20 samples: a Frechet distance is biased upward" in result.stderr
    assert files() == []


@pytest.mark.fast
def test_a_report_is_written_and_its_grid_is_what_sample_makes(
    evaluate: Run, command: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["spherectl", "evaluate", "fashion-mnist", "--steps", "1"])
    result = evaluate("--steps", "1", "--guidance", "1", "--metrics", "fid", "--out", "report")
    assert result.exit_code == 0, result.stderr
    document = json.loads((work / "report" / "report.json").read_text())
    assert document["command"] == "spherectl evaluate fashion-mnist --steps 1"
    assert document["rows"][0]["settings"]["guidance"] == 1.0
    assert "report/report.md and 2 files beside it" in result.stdout
    grid = work / "report" / "fashion-mnist-1-step-guidance-1-decaying-noise-at-most-70-degrees.png"
    about = read_provenance(grid)
    assert about is not None
    assert about["index"] == list(range(20))
    again = command("sample", "--like", grid, "--threads", 1, "--out", "again.png")
    assert again.exit_code == 0, again.stderr
    assert (work / "again.png").read_bytes() == grid.read_bytes()


@pytest.mark.fast
def test_lists_of_settings_are_rows_of_one_document(evaluate: Run) -> None:
    """Every combination, each of other images."""
    lists = ("--noise", "shared,fresh", "--noise-deg", "60,training")
    document = json.loads(evaluate("--steps", "3", *lists, "--guidance", "1", "--metrics", "fid", "--json").stdout)
    assert document["plan"]["metrics"] == ["fid"]
    settings = [(row["settings"]["noise"], row["settings"]["noise_deg"]) for row in document["rows"]]
    assert settings == list(itertools.product(("shared", "fresh"), (60.0, "training")))
    assert len({row["scores"]["frechet_distance"] for row in document["rows"]}) == 4


@pytest.mark.fast
def test_statistics_are_saved_and_used_again(evaluate: Run, work: Path) -> None:
    common = ("--steps", "1", "--json", "--metrics", "fid")
    first = evaluate(*common, "--save-stats", "test.npz")
    assert first.exit_code == 0, first.stderr
    with np.load(work / "test.npz", allow_pickle=False) as arrays:
        assert arrays["mu"].shape == (128,)
        assert arrays["sigma"].shape == (128, 128)
    again = evaluate("--steps", "1", "--json", "--reference", "test.npz")
    distances = [json.loads(one.stdout)["rows"][0]["scores"]["frechet_distance"] for one in (first, again)]
    assert distances[1] == pytest.approx(distances[0], rel=1e-4)
    assert "KID compares features image by image, and fashion-mnist test, 100 images has" in again.stderr


@pytest.mark.fast
def test_a_list_of_images_is_a_reference(evaluate: Run, work: Path, fashion_excerpt: Path) -> None:
    spec = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")
    write_pngs(work / "real", open_dataset(spec, 32, root=fashion_excerpt, split="test").gather(torch.arange(100)))
    lines = [json.dumps({"image_path": f"real/{number:05d}.png", "is_absolute_path": False}) for number in range(100)]
    (work / "listed.jsonl").write_text("\n".join(lines) + "\n")
    common = ("--steps", "1", "--metrics", "fid,kid,prc", "--json")
    by_set, by_list = (json.loads(evaluate(*common, *more).stdout) for more in ((), ("--reference", "listed.jsonl")))
    assert by_list["reference"]["name"] == "listed, 100 images"
    for name in ("frechet_distance", "kid", "precision", "recall"):
        same, ours = (one["rows"][0]["scores"][name] for one in (by_set, by_list))
        assert ours == pytest.approx(same, rel=1e-9), name


@pytest.mark.fast
def test_a_reference_of_other_sizes_is_fitted_as_editing_does_and_said_so(evaluate: Run, work: Path) -> None:
    """Against a folder of the same images fitted by hand, which is read as it is."""
    generator = np.random.default_rng(0)
    recipe = api.load("fashion-mnist", device="cpu").recipe
    (work / "real").mkdir()
    (work / "by-hand").mkdir()
    for number in range(12):
        width, height = [(20, 9), (64, 40), (32, 32), (33, 31), (300, 31)][number % 5]
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(work / "real" / f"{number:02d}.png")
        as_image(fit(image, recipe).pixels).save(work / "by-hand" / f"{number:02d}.png")
    common = ("--steps", "1", "--metrics", "fid,kid", "--json")
    found, expected = (evaluate(*common, "--reference", name) for name in ("real", "by-hand"))
    assert found.exit_code == expected.exit_code == 0, found.stderr
    scores = [json.loads(one.stdout)["rows"][0]["scores"] for one in (found, expected)]
    for name in ("frechet_distance", "kid"):
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-9)
    note = "Images of real that are not 32 x 32 px are laid on black where they fit, else resized and cropped"
    assert any(one.startswith(note) for one in json.loads(found.stdout)["notes"])
    assert f"note: {note}" in found.stderr
    assert "px are" not in expected.stderr
    # The data set itself, too: a model whose training pads takes larger images where nothing is trained.
    spec = DataSpec(kind="folder", fit="pad", flip=False)
    with pytest.raises(UsageError, match="never shrinks"):
        open_dataset(spec, 32, root=work / "real").gather([1])
    fitted = open_dataset(spec, 32, root=work / "real", evaluation=True)
    with Image.open(work / "real" / "01.png") as larger:
        assert torch.equal(fitted.gather([1])[0], adm_crop(larger, 32))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--steps", "1,two"), "--steps 1,two: expected numbers from 1 to 1000 with commas between"),
        (("--steps", ",".join(map(str, range(1, 200)))), "at most 100"),
        (("--noise-deg", "60,90"), "sample.noise_deg: expected a finite number from 0 below 90"),
        (("--noise", "loud"), "--noise loud: loud is none of shared, fresh"),
        (("--features", "nonsense"), "There is no feature network 'nonsense'"),
        (("--features", "fashion-features"), "trained against the features of fashion-features"),
        (("--reference", "nowhere"), "expected train, test, a folder or list (.jsonl) of images, or statistics"),
        (("--reference", "nowhere.npz"), "there is no such file"),
        (("--save-stats", "stats.txt"), "expected a name that ends in .npz"),
        (("--metrics", "memorisation"), "needs at least 198"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, evaluate: Run, fails: Callable[..., str]
) -> None:
    fails(evaluate(*arguments), 2, sentence)


@pytest.mark.slow
def test_two_processes_give_the_report_of_one_once(
    evaluate: Run, together: Callable[..., list[Ended]], fashion_excerpt: Path
) -> None:
    asked = ("--steps", "1,2", "--reconstructions", "30", "--json")
    one = json.loads(evaluate(*asked).stdout)
    command = ("-m", "spherectl", "evaluate", "fashion-mnist", "--count", "20", "--bootstrap", "5")
    first, second = together(2, *command, *asked, "--data", fashion_excerpt)
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stderr.count("model: fashion-mnist") == 1
    assert (second.stdout, second.stderr.count("model: ")) == ("", 0)
    two = json.loads(first.stdout)
    for mine, theirs in zip(one["rows"], two["rows"], strict=True):
        for name, value in mine["scores"].items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-9)
            assert theirs["scores"][name] == expected, name
    assert one["reconstructions"][0]["psnr"] == pytest.approx(two["reconstructions"][0]["psnr"], rel=1e-9)


@pytest.mark.fast
@pytest.mark.parametrize("option", [("--out", "/proc/report"), ("--out", "file"), ("--save-stats", "/proc/stats.npz")])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(
    option: tuple[str, str], evaluate: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "file").write_text("mine")
    monkeypatch.setattr("spherectl.api.load_found", lambda *_, **__: pytest.fail("a model was loaded"))
    result = evaluate(*option)
    assert result.exit_code in (1, 2)
    assert f"Cannot write {option[1]}" in result.stderr
    assert (work / "file").read_text() == "mine"
