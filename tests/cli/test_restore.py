"""`spherectl restore` as people type it: with a damaged image, and with a whole one that is damaged first."""

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
from spherectl.editing.measurements import (
    Blurred,
    Masked,
    Measurement,
    Pooled,
    gaussian_kernel,
    measured,
    random_mask,
)
from spherectl.editing.restoration import restore, settings
from spherectl.images import psnr, read_provenance

pytestmark = pytest.mark.fast

Command = Callable[..., Result]
F32 = ("--dtype", "float32", "--device", "cpu", "--model", "fashion-mnist")


def opened(path: str | Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def tiles(path: str | Path) -> list[torch.Tensor]:
    """The images of a strip."""
    sheet = opened(path)
    return [sheet[:, :, start : start + 32] for start in range(0, sheet.shape[2], 34)]


def save(pixels: torch.Tensor, path: str) -> None:
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)


@pytest.fixture(scope="module")
def model() -> api.Model:
    return api.load("fashion-mnist", device="cpu", dtype="float32")


@pytest.mark.parametrize(("task", "before"), [("inpaint", 3), ("deblur", 2)])
def test_a_whole_image_is_damaged_and_restored(
    task: str, before: int, command: Command, garments: torch.Tensor, files: Callable[[], list[str]], model: api.Model
) -> None:
    result = command("restore", "a.png", "--task", task, "--degrade", "--json", *F32)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["out"] == ["a-restored.png", "a-restored-steps.png"]
    assert files() == ["a-restored-steps.png", "a-restored.png", "a.png", "b.png", "c.png", "d.png"]
    own = settings(model, task)
    assert (told["lambda"], told["noise_deg"], told["rounds"]) == (own["lambda"], own["noise_deg"], own["rounds"])
    shown = tiles("a-restored-steps.png")
    assert len(shown) == before + own["rounds"]  # the image, what was measured, holes filled, the rounds
    assert torch.equal(shown[0], garments[0])
    assert torch.equal(opened("a-restored.png"), shown[-1][:, 2:30, 2:30])  # at a.png's own size
    start, last = (float(psnr(to_float(one)[None], to_float(garments[:1]))) for one in (shown[before - 1], shown[-1]))
    assert told["psnr_start_db"] == pytest.approx(start, abs=0.05)
    assert told["psnr_db"] == pytest.approx(last, abs=0.05)
    assert "is the damage another one" not in result.stderr
    assert f"{told['psnr_start_db']:.2f} dB at the start, {told['psnr_db']:.2f} dB restored" in result.stderr
    made = read_provenance(Path("a-restored.png"))
    assert made is not None
    assert (made["edit"], made["task"], made["lambda"], len(made["inputs"])) == ("restore", task, own["lambda"], 1)


@pytest.mark.parametrize(
    ("task", "how", "sigma"),
    [
        ("inpaint", Masked(random_mask(4, 32, 0.5)), 0),
        ("denoise", Masked(torch.ones(1, 1, 32, 32)), 50),
        ("upscale", Pooled(4), 0),
        ("deblur", Blurred(gaussian_kernel(1.5), (32, 32)), 2),
    ],
)
def test_garments_are_nearer_to_themselves_than_when_damaged(
    task: str, how: Measurement, sigma: float, garments: torch.Tensor, model: api.Model
) -> None:
    """By more than 1 dB on average over four; a single one may be worse, as of 200 some are."""
    x, own = to_float(garments), settings(model, task)
    y = measured(x, how, sigma=sigma, grey=True)
    chosen = {"noise_deg": own["noise_deg"], "weight": own["lambda"], "count": own["rounds"]}
    *_, made = restore(model, y, how, **chosen)
    gains = psnr(made, x) - psnr(how.start(y).clamp(0, 1), x)
    assert gains.mean() > 1
    assert (gains < 0).sum() <= 1


def test_a_hole_is_filled_by_the_rounds_and_the_rest_stays(
    command: Command, garments: torch.Tensor, work: Path, model: api.Model
) -> None:
    hole = torch.zeros(3, 28, 28, dtype=torch.uint8)
    hole[:, 10:16, 8:18] = 255
    save(hole, "hole.png")
    options = ("--task", "inpaint", "--mask", "hole.png", "--rounds", 2, "--seed", 5, *F32)
    assert command("restore", "a.png", *options, "-o", "x.png").exit_code == 0
    before, after, missing = opened("a.png"), opened("x.png"), hole > 0
    assert torch.equal(after[~missing], before[~missing])
    assert not torch.equal(after[missing], before[missing])
    scratched = before.clone()
    scratched[missing] = 77
    save(scratched, "scratched.png")
    assert command("restore", "scratched.png", *options, "-o", "y.png").exit_code == 0
    assert torch.equal(opened("y.png"), after)  # what stands in the hole plays no part
    known = torch.ones(1, 1, 32, 32)
    known[..., 12:18, 10:20] = 0
    own = settings(model, "inpaint")
    chosen = {"noise_deg": own["noise_deg"], "weight": own["lambda"], "count": 2, "seed": 5}
    *_, expected = restore(model, known * to_float(garments[:1]), Masked(known), **chosen)
    assert torch.equal(after[missing], to_uint8(expected)[0, :, 2:30, 2:30][missing])
    made = read_provenance(Path("x.png"))
    assert made is not None
    assert len(made["inputs"]) == 2  # the mask decides pixels too


def test_a_large_image_keeps_its_known_pixels(command: Command, work: Path) -> None:
    y, x = np.mgrid[0:90, 0:150]
    Image.fromarray(np.stack([x, 2 * y, 150 - x], -1).astype(np.uint8)).save("wide.png")
    holes = np.zeros((90, 150), np.uint8)
    holes[30:60, 60:90] = 255
    holes[10:20, 0:10] = 255  # beside the square that the model sees
    Image.fromarray(holes).save("holes.png")
    result = command("restore", "wide.png", "--task", "inpaint", "--mask", "holes.png", "--rounds", 1, *F32)
    assert result.exit_code == 0, result.stderr
    assert "wide.png: its colours are left out" in result.stderr
    before, after = opened("wide.png"), opened("wide-restored.png")
    changed = torch.zeros(90, 150, dtype=torch.bool)
    changed[30:60, 60:90] = True
    assert torch.equal(after[:, ~changed], before[:, ~changed])
    assert (after[:, changed] != before[:, changed]).any()


def test_a_small_image_is_enlarged(command: Command, garments: torch.Tensor, work: Path, model: api.Model) -> None:
    small = to_uint8(Pooled(4).apply(to_float(garments[:1])))
    save(small[0], "small.png")
    options = ("--noise-deg", 0, "--lambda", 0.01, "--rounds", 1)
    result = command("restore", "small.png", "--task", "upscale", *options, "-o", "x.png", *F32)
    assert result.exit_code == 0, result.stderr
    expected = next(restore(model, to_float(small), Pooled(4), count=1, noise_deg=0, weight=0.01))
    assert torch.equal(opened("x.png"), to_uint8(expected)[0])
    assert torch.equal(tiles("x-steps.png")[0], small[0].repeat_interleave(4, 1).repeat_interleave(4, 2))
    save(small[0, :, 1:7], "low.png")  # 8 x 6 pixels
    assert command("restore", "low.png", "--task", "upscale", *options, "-o", "y.png", *F32).exit_code == 0
    assert opened("y.png").shape == (3, 24, 32)


def test_every_nth_pixel_is_kept(command: Command, garments: torch.Tensor, work: Path) -> None:
    small = garments[0][:, ::2, ::2]
    save(small, "small.png")
    options = ("--scale", 2, "--by", "decimate", "--lambda", 1e-5, "--rounds", 1)
    assert command("restore", "small.png", "--task", "upscale", *options, "-o", "x.png", *F32).exit_code == 0
    assert torch.equal(opened("x.png")[:, ::2, ::2], small)


def test_a_kernel_of_one_point_blurs_nothing(command: Command, garments: torch.Tensor, work: Path) -> None:
    point = np.zeros((5, 5), np.uint8)
    point[2, 2] = 200
    Image.fromarray(point).save("kernel.png")
    options = ("--kernel", "kernel.png", "--lambda", 1e-5, "--rounds", 1)
    assert command("restore", "a.png", "--task", "deblur", *options, "-o", "x.png", *F32).exit_code == 0
    assert torch.equal(opened("x.png"), opened("a.png"))
    result = command("restore", "a.png", "--task", "deblur", *options[2:], "-o", "y.png", *F32)
    assert not torch.equal(opened("y.png"), opened("a.png"))
    assert "a.png: noise of 2 levels does not explain that; is the damage another one?" in result.stderr


def test_rounds_are_kept_and_a_seed_decides_all(command: Command, garments: torch.Tensor, work: Path) -> None:
    def run(name: str, seed: int) -> bytes:
        options = ("--task", "denoise", "--degrade", "--rounds", 2, "--seed", seed, "--class", "bag", "--keep-rounds")
        assert command("restore", "b.png", *options, "-o", name, *F32).exit_code == 0
        return Path(name).read_bytes()

    assert run("x.png", 1) == run("y.png", 1)
    first, second = tiles("x-steps.png")[2:]
    assert torch.equal(opened("x-round-1.png"), first[:, 2:30, 2:30])
    assert torch.equal(opened("x-round-2.png"), second[:, 2:30, 2:30])
    assert torch.equal(opened("x-round-2.png"), opened("x.png"))
    made = read_provenance(Path("x.png"))
    assert made is not None
    assert made["class"] == 8
    run("z.png", 2)
    assert not torch.equal(tiles("z-steps.png")[1], tiles("x-steps.png")[1])  # the damage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "inpaint"), "Which pixels are missing? Expected --mask PNG, white where they are"),
        (("--task", "inpaint", "--mask", "a.png", "--missing", 0.3), "Expected one of --mask and --missing, not both"),
        (("--task", "inpaint", "--mask", "black.png"), "By the mask nothing is missing"),
        (("--task", "inpaint", "--mask", "large.png"), "The mask has 40 x 40 pixels and the image 28 x 28"),
        (("--task", "denoise", "--scale", 2), "--scale is for --task upscale, not for denoise"),
        (("--task", "upscale", "--scale", 5), "which --scale 5 does not divide; these do: 2, 4, 8, 16"),
        (("--task", "deblur", "--kernel", "large.png"), "A kernel of 40 x 40 does not fit images of 32 x 32"),
        (("--task", "denoise", "--lambda", 0), "weight: expected a finite number above 0 to 1e+06, got 0.0"),
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
    for name, level, size in (("black", 0, 28), ("large", 255, 40)):
        Image.new("L", (size, size), level).save(f"{name}.png")
    before = files()
    fails(command("restore", "a.png", *words), 2, said)
    assert files() == before
