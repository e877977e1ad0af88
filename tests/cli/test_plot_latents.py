"""`plot samples`, `plot uniformity`, `plot posterior-hole`: what they write and say, and the mistakes people make."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture
def here(run_here: Path, tiny_baselines: dict[str, Path], work: Path) -> Path:
    """The working folder with runs/tiny, runs/vae and runs/diffusion."""
    for kind, folder in tiny_baselines.items():
        shutil.copytree(folder, work / "runs" / kind)
    return work


@pytest.fixture
def data(fashion_excerpt: Path) -> tuple[str, Path]:
    return "--data", fashion_excerpt


@pytest.mark.fast
def test_samples_are_rows_of_steps(command: Command, run_here: Path, files: Callable[[], list[str]]) -> None:
    result = command("plot", "samples", "runs/tiny", "--steps", "1,2,3", "--guidance", "1", "--count", 4)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "tiny-samples.png\n"
    with Image.open("tiny-samples.png") as image:
        assert image.size == (4 * 34 - 2, 3 * 34 - 2)
    assert files() == ["tiny-samples.png"]


@pytest.mark.slow
def test_a_posterior_hole_is_a_table_and_a_figure(command: Command, here: Path, data: tuple[str, Path]) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    vae.save_pretrained(here / "published")
    asked = ["plot", "posterior-hole", "runs/tiny", *data, "--count", 12, "--bootstrap"]
    result = command(*asked, 5, "--vae", "diffusers:published", "--json", "--out", "a.png")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    names = [(row["model"], row["images"]) for row in found["rows"]]
    columns = ("input", "reconstruction", "prior", "fitted")
    assert names == [(model, column) for model in ("tiny", "published") for column in columns]
    assert all(row["count"] == 12 for row in found["rows"])
    assert all(row["interval"][0] <= row["interval"][1] for row in found["rows"])
    assert found["features"] == "fashion-scorer"
    with Image.open(found["figure"]) as image:
        image.load()
    told = command(*asked, 0)
    assert told.exit_code == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["model", "images", "count", "Frechet", "distance"]
    for line, row in zip(lines[1:5], found["rows"], strict=False):
        assert line.split() == ["tiny", row["images"], "12", f"{row['frechet_distance']:.4g}"]
    assert lines[5:] == ["tiny-posterior-hole.png"]


@pytest.mark.slow
def test_uniformity_is_a_figure_a_page_and_numbers(
    command: Command, here: Path, data: tuple[str, Path], files: Callable[[], list[str]]
) -> None:
    options = [*data, "--count", 30, "--draws", 19]
    result = command("plot", "uniformity", "runs/tiny", "--vae", "runs/vae", *options)
    assert result.exit_code == 0, result.stderr
    assert files() == ["tiny-uniformity.html", "tiny-uniformity.png"]
    lines = result.stdout.splitlines()
    assert lines[-2:] == ["tiny-uniformity.png", "tiny-uniformity.html"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "latents of tiny", "truly uniform points", "means of vae", "pixels less their mean",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[7:9]] == ["80", "160"]  # images seen at the run's checkpoints
    found = json.loads(command("plot", "uniformity", "runs/tiny", *options, "--json", "--out", "b.png").stdout)
    assert list(found["panels"]) == ["latents of tiny", "truly uniform points", "pixels less their mean"]
    assert found["panels"]["latents of tiny"]["all"] == found["training"]["160"]["all"]
    assert found["panels"]["truly uniform points"]["all"]["dimension"] == 128
    assert Path("b.html").is_file()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["samples", "runs/none"], 2, "There is no model 'runs/none'"),
        (["samples", "runs/tiny", "--steps", "1,x"], 2, "--steps 1,x: expected numbers from 1 with commas between."),
        (["samples", "runs/tiny", "--out", "a.jpg"], 2, "ends in .png, got a.jpg"),
        (["uniformity", "runs/vae"], 2, "holds a vae; a sphere-encoder is needed here"),
        (["uniformity", "runs/tiny", "--vae", "runs/diffusion"], 2, "holds a diffusion; a vae is needed here"),
        (["posterior-hole", "runs/tiny", "--vae", "diffusers:runs"], 1, "Cannot read a VAE of diffusers at runs"),
        (["posterior-hole", "runs/tiny", "--bootstrap", "1"], 2, "one resample has no spread"),
    ],
)
def test_mistakes_are_a_sentence(
    command: Command,
    fails: Callable[..., str],
    here: Path,
    data: tuple[str, Path],
    files: Callable[[], list[str]],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    fails(command("plot", *arguments, *(data if arguments[0] != "samples" else ())), code, said)
    assert files() == []


@pytest.mark.fast
def test_without_matplotlib_nothing_is_measured(
    command: Command, fails: Callable[..., str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else real(name))
    for name in ("uniformity", "posterior-hole"):
        fails(command("plot", name, "runs/tiny"), 2, "matplotlib, which is not installed", "'spherectl[plot]'")
