"""Every file in recipes/: it loads, is documented, and says what the paper's table says (typed here again)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl.model.sphere import build, parameter_count
from spherectl.recipe import Recipe, load, loads

pytestmark = pytest.mark.fast

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
FILES = sorted(RECIPES.glob("*.toml"))

PAPER = ("cifar10", "cifar10-uncond", "animal-faces256", "flowers256", "imagenet256", "imagenet256-xl")

# Section 4's table: px, classes, size, d, L, angle, mixers, head, ratio, epochs, warm-up, then the weights
# w_rec, w_rec_p, w_con, w_con_p, w_lat. Section 7 has cifar10 without labels and imagenet with both sizes.
TABLE: dict[str, tuple[Any, ...]] = {
    "cifar10":         ( 32,   10, "base",     8,   2048, 80, 2, "conv",   1.5, 5000, 10,  1, 1, 0.5, 0.5, 0.1),
    "cifar10-uncond":  ( 32,    0, "base",     8,   2048, 80, 2, "conv",   1.5, 5000, 10,  1, 1, 0.5, 0.5, 0.1),
    "animal-faces256": (256,    0, "large",  128, 131072, 85, 4, "linear", 1.5, 1000, 10, 25, 1,   1,   1, 0.1),
    "flowers256":      (256,  102, "large",  128, 131072, 85, 4, "linear", 1.5, 1000, 10, 25, 1,   1,   1, 0.1),
    "imagenet256":     (256, 1000, "large",   64,  65536, 85, 4, "linear", 3.0,  800,  5, 50, 1,  25,   1, 0.1),
    "imagenet256-xl":  (256, 1000, "xlarge",  64,  65536, 85, 4, "linear", 3.0,  800,  5, 50, 1,  25,   1, 0.1),
}  # fmt: skip

# Section 5's guidance scale and noise of the published samples; section 7's gFID at 1 and at 4 steps.
PUBLISHED = {
    "cifar10": (1.2, "shared", "18.68", "2.72"),
    "cifar10-uncond": (1.0, "shared", "35.67", "4.31"),
    "animal-faces256": (1.0, "shared", "21.56", "18.73"),
    "flowers256": (1.6, "fresh", "25.10", "11.27"),
    "imagenet256": (1.4, "shared", "15.69", "4.78"),
    "imagenet256-xl": (1.4, "shared", "14.52", "4.05"),
}


def recipe(name: str) -> Recipe:
    return load(RECIPES / f"{name}.toml")


def test_each_recipe_is_of_its_data_without_anybodys_paths_and_only_debug_is_no_default() -> None:
    found = {path.stem: load(path) for path in FILES}
    others = {name: one.data.kind for name, one in found.items() if not name.startswith(one.data.kind)}
    assert others == {"flowers256": "flowers102", "debug": "fashion-mnist"}
    assert {one.data.root for one in found.values()} == {None}
    assert [name for name, one in found.items() if not one.run.default] == ["debug"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_loads_and_is_whole(path: Path) -> None:
    loaded = load(path)
    assert loaded.name == path.stem
    assert loaded.summary
    assert loads(loaded.to_toml()) == loaded
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert list(table) == ["name", "summary", "model", "data", "noise", "loss", "optim", "run", "sample"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_can_be_resolved(path: Path) -> None:
    """With 1000 images in as many classes as it wants; "auto" takes what there is."""
    loaded = load(path)
    classes = loaded.model.num_classes
    resolved = loaded.resolve(images=1000, num_classes=7 if classes == "auto" else classes)
    assert resolved.model.classes == (7 if classes == "auto" else classes)
    assert resolved.run.length_images is not None
    assert resolved.optim.warmup_images is not None
    assert resolved.optim.warmup_images < resolved.run.length_images
    assert min(resolved.run.checkpoint_images, resolved.run.sample_images) >= resolved.run.batch_size


@pytest.mark.parametrize("name", [*PAPER, "fashion-mnist", "emoji", "debug"])
def test_the_head_counts_the_networks_parameters(name: str) -> None:
    """Against the networks built from the file, without memory for them; section 3 has most of these counts."""
    head = (RECIPES / f"{name}.toml").read_text(encoding="utf-8").partition("\nname")[0]
    counted = re.search(r"([\d,]+) parameters", head)
    assert counted
    with torch.device("meta"):
        assert parameter_count(build(recipe(name).model)) == int(counted[1].replace(",", ""))


@pytest.mark.parametrize("name", PAPER)
def test_papers_recipe_is_the_papers_table(name: str) -> None:
    r = recipe(name)
    assert r.model.encoder_mixer_blocks == r.model.decoder_mixer_blocks
    assert TABLE[name] == (
        r.model.image_size,
        r.model.num_classes,
        r.model.size,
        r.model.channels_per_token,
        r.model.latent_size,
        r.noise.angle_deg,
        r.model.encoder_mixer_blocks,
        r.model.pixel_head,
        r.model.compression_ratio,
        r.run.length_epochs,
        r.optim.warmup_epochs,
        r.loss.rec,
        r.loss.rec_perceptual,
        r.loss.con,
        r.loss.con_perceptual,
        r.loss.latent,
    )


@pytest.mark.parametrize("name", PAPER)
def test_what_all_of_the_papers_recipes_share(name: str) -> None:
    """Section 4's text, key by key, and the score that the head of the file names."""
    r = recipe(name)
    found = re.search(r"FID (\d+\.\d+).*? at 1 step, (\d+\.\d+).*? at 4", (RECIPES / f"{name}.toml").read_text())
    assert found
    assert (r.sample.guidance, r.sample.noise, *found.groups()) == PUBLISHED[name]
    assert (r.sample.steps, r.sample.guide, r.sample.strength) == (4, "both", "constant")
    assert (r.model.latent_resolution, r.model.patch_size, r.model.token_channels) == ("high", None, None)
    assert (r.model.mixer_norm_scale, r.model.in_context_tokens, r.model.decoder_size) == (True, 0, None)
    assert (r.model.spherify_decoder_blocks, r.model.halve_depth) == (False, False)
    assert (r.noise.hard_case_probability, r.noise.hard_cases) == (0.1, "reference")
    assert r.loss.perceptual == "lpips+convnext"
    assert r.loss.label_dropout == (0.1 if r.model.num_classes else 0.0)
    assert (r.optim.lr, r.optim.lr_batch_size, r.optim.min_lr) == (1e-4, 256, 1e-6)
    assert (r.optim.encoder_lr_ratio, r.optim.betas, r.optim.weight_decay) == (0.1, (0.9, 0.95), 0.0)
    assert r.optim.clip_norm == 1.0
    assert 0.5 ** (r.run.batch_size / r.optim.ema_half_life_images) == pytest.approx(0.9997, abs=1e-9)
    assert r.optim.ema_ramp_ratio == 0.0
    assert (r.run.batch_size, r.run.dtype, r.run.default) == (256, "bfloat16", True)
    assert (r.data.fit, r.data.flip, r.data.channels) == ("crop", True, "rgb")


@pytest.mark.parametrize(("name", "px"), [("folder32", 32), ("folder256", 256)])
def test_recipes_for_peoples_own_images_take_any_folder(name: str, px: int) -> None:
    """Classes or none, and lengths in images, so that neither depends on the folder's size."""
    r = recipe(name)
    assert (r.model.image_size, r.model.num_classes) == (px, "auto")
    assert (r.run.length_epochs, r.optim.warmup_epochs) == (None, None)
    assert r.resolve(images=3, num_classes=0).model.classes == 0
    assert r.sample.guidance == 1.0  # a folder without classes has nothing to guide


def test_fashion_mnist_is_padded_and_never_mirrored_and_debug_is_twenty_steps_of_it() -> None:
    """Section 10."""
    fashion, debug = recipe("fashion-mnist"), recipe("debug")
    for r in (fashion, debug):
        assert (r.data.fit, r.data.flip, r.data.channels, r.model.image_size) == ("pad", False, "grey", 32)
    model = fashion.model
    assert (model.size, model.patch, model.tokens, model.channels_per_token) == ("micro", 4, 64, 8)
    assert debug.run.length_images == 20 * debug.run.batch_size
    assert (debug.model.size, debug.run.dtype, debug.loss.perceptual) == ("nano", "float32", "none")
