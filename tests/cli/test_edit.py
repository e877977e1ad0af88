"""`spherectl edit`, `interpolate`, `encode` and `sample --latents` as people type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from spherectl import api
from spherectl.data.transforms import to_float, to_uint8
from spherectl.images import read_provenance
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_tensors

pytestmark = pytest.mark.fast

Command = Callable[..., Result]
F32 = ("--dtype", "float32", "--device", "cpu")


def photo(path: str, width: int, height: int) -> None:
    y, x = np.mgrid[0:height, 0:width]
    levels = np.stack([128 + 100 * np.sin(x / 60), 128 + 80 * np.cos(y / 50), 0 * x], -1)
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(path)


def opened(path: str | Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_two_photographs_of_any_size_are_harmonised_as_typed(
    command: Command, work: Path, files: Callable[[], list[str]]
) -> None:
    photo("a.png", 300, 200)
    photo("b.png", 90, 120)
    result = command("edit", "a.png", "b.png", "--harmonize")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == ["a-harmonize.png", "a-harmonize-steps.png"]
    assert "a.png: its colours are left out; fashion-mnist has only seen 32 px grey images" in result.stderr
    assert files() == ["a-harmonize-steps.png", "a-harmonize.png", "a.png", "b.png"]
    assert opened("a-harmonize.png").shape == (3, 200, 200)  # of the square that the model saw of a.png
    assert opened("a-harmonize-steps.png").shape == (3, 32, 7 * 34 - 2)  # A, B, stitched, 4 rounds
    made = read_provenance(Path("a-harmonize.png"))
    assert made is not None
    assert (made["edit"], made["layout"], made["steps"], len(made["inputs"])) == ("harmonize", "left-right", 4, 2)
    again = command("sample", "--like", "a-harmonize.png")
    assert again.exit_code == 2
    assert "was made of others (harmonize)" in again.stderr


def test_the_steps_show_how_the_result_came_about(command: Command, garments: torch.Tensor, work: Path) -> None:
    assert command("edit", "a.png", "b.png", "--harmonize", "--swap", "--steps", 2, "-o", "x.png", *F32).exit_code == 0
    sheet = opened("x-steps.png")
    parts = [sheet[:, :, 34 * place : 34 * place + 32] for place in range(5)]
    assert torch.equal(parts[0], garments[0])
    assert torch.equal(parts[1], garments[1])
    assert torch.equal(parts[2], torch.cat((garments[1][..., :16], garments[0][..., 16:]), dim=2))
    model = api.load("fashion-mnist", device="cpu", dtype="float32")
    assert torch.equal(parts[3], to_uint8(model.reconstruct(to_float(parts[2])[None]))[0])
    assert torch.equal(opened("x.png"), parts[4][:, 2:30, 2:30])  # at a.png's own size
    Image.new("L", (32, 32), 255).save("mask.png")
    assert command("edit", "a.png", "b.png", "--harmonize", "--mask", "mask.png", "-o", "y.png", *F32).exit_code == 0
    assert torch.equal(opened("y-steps.png")[:, :, 68:100], garments[0])  # the mask takes the place of a layout


def test_classes_are_rows_and_rounds_columns(command: Command, garments: torch.Tensor, work: Path) -> None:
    result = command("edit", "a.png", "--to-class", "sneaker,bag", "-o", "x.png", "--json", *F32)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["out"] == ["x-sneaker.png", "x-bag.png", "x-steps.png"]
    assert told["classes"] == ["sneaker", "bag"]
    assert (told["noise_deg"], told["guidance"], told["steps"]) == (70, 3, 4)  # as the model says
    assert not Path("x.png").exists()
    sheet = opened("x-steps.png")
    assert sheet.shape == (3, 66, 5 * 34 - 2)
    assert torch.equal(sheet[:, 34:66, :32], garments[0])
    assert torch.equal(opened("x-bag.png"), sheet[:, 36:64, 138:166])


def test_a_reconstruction_says_its_psnr_and_goes_back_into_its_place(command: Command, work: Path) -> None:
    photo("wide.png", 120, 60)
    result = command("edit", "wide.png", "--reconstruct", *F32)
    assert result.exit_code == 0, result.stderr
    assert "PSNR " in result.stderr
    assert " dB at 80°" in result.stderr
    before, after = opened("wide.png"), opened("wide-reconstruct.png")
    assert after.shape == before.shape
    assert torch.equal(after[:, :, :30], before[:, :, :30])
    assert torch.equal(after[:, :, 90:], before[:, :, 90:])
    assert not torch.equal(after[:, :, 30:90], before[:, :, 30:90])


def test_a_image_that_the_model_does_not_know_is_told(command: Command, work: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(noise).save("noise.png")
    said = command("edit", "noise.png", "--reconstruct", *F32).stderr
    assert "noise.png: its reconstruction reaches only" in said
    assert "fashion-mnist has only seen 32 px grey images of" in said


def test_encoding_and_decoding_is_the_reconstruction_bit_for_bit(
    command: Command, garments: torch.Tensor, work: Path
) -> None:
    result = command("encode", "*.png", "--out", "l.safetensors", "--class", "bag", "--batch", 3, *F32)
    assert (result.exit_code, result.stdout) == (0, "l.safetensors\n"), result.stderr
    header, tensors = read_header(Path("l.safetensors")), read_tensors(Path("l.safetensors"))
    assert header["files"] == ["a.png", "b.png", "c.png", "d.png"]
    assert tensors["labels"].tolist() == [8] * 4
    assert torch.allclose(tensors["latents"].square().mean((1, 2)), torch.ones(4), atol=1e-4)
    assert command("sample", "--latents", "l.safetensors", "--out", "again", *F32).exit_code == 0
    model = api.load("fashion-mnist", device="cpu", dtype="float32")
    expected = to_uint8(model.reconstruct(to_float(garments), ["bag"] * 4))
    found = torch.stack([opened(f"again/{i:06d}.png") for i in range(4)])
    assert torch.equal(found, expected)


def test_decoding_under_another_class_and_after_rounds(command: Command, garments: torch.Tensor, work: Path) -> None:
    assert command("encode", "a.png", "b.png", "--out", "l.safetensors", *F32).exit_code == 0
    plain = command("sample", "--latents", "l.safetensors", *F32)
    assert (plain.exit_code, plain.stdout) == (0, "l-decoded.png\n")
    rounds = ("--steps", 3, "--class", "coat", "--out", "x.png")
    assert command("sample", "--latents", "l.safetensors", *rounds, *F32).exit_code == 0
    assert not torch.equal(opened("x.png"), opened("l-decoded.png"))
    made = read_provenance(Path("x.png"))
    assert made is not None
    assert (made["edit"], made["class"], made["steps"], made["index"]) == ("latents", [4, 4], 3, [0, 1])


def test_latents_of_another_model_and_other_files_are_refused(
    command: Command, garments: torch.Tensor, run_here: Path, work: Path, fails: Callable[..., str]
) -> None:
    assert command("encode", "a.png", "--out", "l.safetensors", "--model", "fashion-mnist", *F32).exit_code == 0
    result = command("sample", "--latents", "l.safetensors", "--model", "runs/tiny", *F32)
    fails(result, 2, "l.safetensors holds latents of fashion-mnist", "mean nothing to tiny")
    fails(command("sample", "--latents", "runs/tiny/model.safetensors", *F32), 1, "holds no latents")
    fails(command("sample", "--latents", "l.safetensors", "--count", 3, *F32), 2, "leave out --count")


def test_interpolation_between_images_begins_and_ends_with_reconstructions(
    command: Command, garments: torch.Tensor, work: Path
) -> None:
    result = command("interpolate", "a.png", "b.png", "--frames", 4, *F32)
    assert (result.exit_code, result.stdout) == (0, "interpolated.png\n"), result.stderr
    sheet = opened("interpolated.png")
    assert sheet.shape == (3, 32, 4 * 34 - 2)
    model = api.load("fashion-mnist", device="cpu", dtype="float32")
    again = to_uint8(model.reconstruct(to_float(garments[:2])))
    assert torch.equal(sheet[:, :, :32], again[0])
    assert torch.equal(sheet[:, :, -32:], again[1])
    assert command("interpolate", *(f"{n}.png" for n in "abcd"), "--frames", 3, "-o", "g.png", *F32).exit_code == 0
    assert opened("g.png").shape == (3, 3 * 34 - 2, 3 * 34 - 2)


def test_seeds_are_sampled_as_by_sample_and_animate(command: Command, work: Path) -> None:
    options = ("--seeds", "3,7", "--class", "sneaker,bag", "--frames", 5)
    assert command("interpolate", *options, "-o", "walk.png", *F32).exit_code == 0
    sampled = ("--steps", 1, "--guidance", 1, "--count", 1, *F32)
    for seed, name, place in ((3, "sneaker", 0), (7, "bag", 136)):
        assert command("sample", "--seed", seed, "--class", name, *sampled, "--out", f"{name}.png").exit_code == 0
        difference = opened("walk.png")[:, :, place : place + 32].int() - opened(f"{name}.png").int()
        assert difference.abs().max() <= 1  # mixed embeddings are a product, labels a look-up
    assert command("interpolate", *options, "-o", "walk.webp", *F32).exit_code == 0
    with Image.open("walk.webp") as moving:
        assert moving.n_frames == 8  # there and back again
        assert moving.size == (32, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("edit", "a.png"), "Expected one of --harmonize, --to-class and --reconstruct"),
        (("edit", "a.png", "--harmonize"), "Expected two images, A and B; got 1"),
        (("edit", "a.png", "--reconstruct", "--swap"), "--layout, --mask and --swap are for --harmonize"),
        (("edit", "a.png", "b.png", "--harmonize", "--layout", "round"), "There is no layout 'round'"),
        (("edit", "a.png", "--reconstruct", "-o", "x.jpg"), "ends in .png"),
        (("encode", "nothing*.png", "--out", "l.safetensors"), "There is no image nothing*.png"),
        (("encode", "a.png", "--out", "l.npz"), "written to a .safetensors file"),
        (("interpolate", "a.png"), "Expected two ends or four corners; got 1"),
        (("interpolate", "--seeds", "1,x"), "Expected seeds from 0 to 2^64 - 1 as in 3,7"),
        (("interpolate", "--seeds", "1,2,3,4", "--frames", 9999), "99,980,001 frames of 32 px"),
        (("interpolate", "--class", "0,1,2"), "one for each of 2 ends; got 3"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    words: tuple[str, ...],
    said: str,
    command: Command,
    garments: torch.Tensor,
    files: Callable[[], list[str]],
    fails: Callable[..., str],
) -> None:
    before = files()
    fails(command(*words), 2, said)
    assert files() == before
