"""`spherectl sample --like`: the same file again, or a sentence that says what is in the way."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from spherectl.images import read_provenance, save_png
from spherectl.model.formats import weights

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "arguments",
    [
        ("--count", 7, "--batch", 5),
        ("--count", 7, "--batch", 5, "--dtype", "bfloat16"),
        (
            "--count",
            3,
            "--class",
            "none,bag",
            "--guidance",
            1.7,
            "--guide",
            "decoder",
            "--steps",
            3,
            "--seed",
            2**64 - 1,
        ),
        ("--count", 4, "--noise", "fresh", "--strength", "decaying", "--steps", 4, "--weights", "raw"),
        ("--count", 4, "--noise-deg", 62.5, "--steps", 2),
    ],
)
def test_like_makes_the_same_file_again(command, run_here, work, arguments):
    command("sample", *arguments, "--out", "grid.png")
    command("sample", *arguments, "--out", "folder")
    for original in ("grid.png", "folder/000002.png", *(["folder/000006.png"] if 7 in arguments else [])):
        result = command("sample", "--like", original, "--out", "again.png")
        assert (result.exit_code, result.stdout) == (0, "again.png\n"), result.stderr
        assert f"the same as {original}, pixel for pixel" in result.stderr
        assert (work / "again.png").read_bytes() == (work / original).read_bytes()


def test_like_makes_a_new_name_and_tells_the_difference(command, run_here, work, files, pixels):
    command("sample", "--count", 2, "--out", "a.png")
    names = [command("sample", "--like", "a.png").stdout.strip() for _ in range(2)]
    assert names == ["a-again.png", "a-again-1.png"]
    bare = command("sample", "--like", "a.png", "--no-provenance", "--out", "bare.png")
    assert bare.exit_code == 0
    assert read_provenance(work / "bare.png") is None
    image = torch.from_numpy(pixels(work / "a.png").copy()).permute(2, 0, 1)
    for change, said in ((1, "within 1 of 255 levels of b.png"), (50, "differs by up to 50 of 255 levels of b.png")):
        other = image.clone()
        other[:, 3, 3] = torch.where(other[:, 3, 3] > 127, other[:, 3, 3] - change, other[:, 3, 3] + change)
        save_png(work / "b.png", other, read_provenance(work / "a.png"))
        result = command("sample", "--like", "b.png", "--out", "c.png", "--json")
        assert said in result.stderr
        assert json.loads(result.stdout) == {"out": "c.png", "largest_difference": change}
    save_png(work / "b.png", image[:, :20], read_provenance(work / "a.png"))
    assert "another size" in command("sample", "--like", "b.png", "--out", "c.png").stderr


def test_like_finds_the_model_by_name_and_hash(command, own_zoo, run_here, tiny_run, lively, work, monkeypatch, fails):
    """A run may have the name of a zoo model, as runs/fashion-mnist has; the hash says which of them it was."""
    package = weights.read_package(tiny_run / "model.safetensors")
    other = shutil.copytree(tiny_run, work / "runs" / "fashion-mnist")
    weights.write_package(other / "model.safetensors", lively(package.recipe.replace(noise={"angle_deg": 85.0})))
    weights.write_package(work / "mine.safetensors", lively(package.recipe.replace(noise={"angle_deg": 70.0})))
    for number, model in enumerate(("fashion-mnist", "runs/fashion-mnist", "mine.safetensors")):
        assert command("sample", "--count", 1, "--model", model, "--out", f"{number}.png").exit_code == 0
    reasons = [command("sample", "--like", f"{number}.png").stderr.splitlines()[0] for number in range(3)]
    places = ["fashion-mnist", "runs/fashion-mnist", "mine.safetensors"]
    assert reasons == [f"model: {place} (as asked for)" for place in places]
    (work / "mine.safetensors").rename(work / "renamed.safetensors")
    fails(command("sample", "--like", "2.png"), 2, "was drawn by mine (SHA-256 ", "which is not here.", "--model")
    assert command("sample", "--like", "2.png", "--model", "renamed.safetensors").exit_code == 0
    shutil.copy(work / "runs" / "tiny" / "model.safetensors", other / "model.safetensors")
    said = fails(command("sample", "--like", "1.png"), 2)
    assert said.endswith(
        "which is not here: runs/fashion-mnist/model.safetensors and "
        f"{own_zoo / 'fashion-mnist.safetensors'} are others."
    )


def test_like_with_another_model_is_refused(command, run_here, tiny_run, lively, work, files, fails):
    package = weights.read_package(tiny_run / "model.safetensors")
    weights.write_package(work / "other.safetensors", lively(package.recipe))
    command("sample", "--count", 1, "--out", "a.png")
    before = files()
    fails(command("sample", "--like", "a.png", "--model", "other.safetensors"), 2, "not by other (")
    assert files() == before


def test_like_a_image_that_is_not_ours_is_refused(command, run_here, work, files, fails):
    Image.new("RGB", (32, 32)).save(work / "theirs.png")
    Image.new("RGB", (32, 32)).save(work / "theirs.jpg")
    (work / "cut.png").write_bytes((work / "theirs.png").read_bytes()[:40])
    save_png(work / "newer.png", torch.zeros(3, 8, 8, dtype=torch.uint8), {"format": 2})
    before = files()
    for name, code, said in (
        ("theirs.png", 2, "theirs.png does not say how it was made"),
        ("absent.png", 2, "There is no image absent.png"),
        ("theirs.jpg", 2, "theirs.jpg does not say how it was made"),
        ("cut.png", 1, "Cannot read the image cut.png"),
        ("newer.png", 1, "provenance is of format 2; this version reads 1"),
    ):
        fails(command("sample", "--like", name), code, said)
    assert files() == before


def test_like_takes_everything_from_the_image(command, run_here, work, files, fails):
    command("sample", "--count", 1, "--out", "a.png")
    given = (
        "--class",
        1,
        "--count",
        16,
        "--steps",
        2,
        "--seed",
        0,
        "--batch",
        64,
        "--dtype",
        "auto",
        "--weights",
        "ema",
    )
    said = fails(command("sample", "--like", "a.png", *given), 2)
    assert said.endswith("leave out --class, --count, --steps, --seed, --batch, --dtype, --weights.")
    fails(command("sample", "--like", "a.png", "--out", "again.npz"), 2, "expected an --out that ends in .png")
    fails(command("sample", "--like", "a.png", "--out", "again"), 2, "expected an --out that ends in .png")
    assert files() == ["a.png"]
