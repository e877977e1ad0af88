"""Every tensor, loss and gradient norm of the reference vectors, which the authors' models computed in float64."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spherectl.model.formats.weights import instantiate, read_package
from spherectl.model.geometry import spherify
from spherectl.model.objective import Losses, LossWeights, TrainingNoise, objective, with_hard_cases
from spherectl.model.sampler import generate, guided, to_unit
from spherectl.model.sphere import SphereEncoder, parameter_count
from spherectl.model.vit import Decoder, Encoder
from spherectl.recipe import NoiseSpec

pytestmark = pytest.mark.fast

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = ("cond-conv", "cond-linear", "uncond-linear", "cond-incontext", "cond-asymmetric")
# (tensors absolute, losses relative, gradient norms relative)
TOLERANCE = {torch.float64: (1e-12, 1e-6, 2e-6), torch.float32: (1e-5, 1e-6, 3e-5)}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=("float64", "float32"))
EVERY_CASE = pytest.mark.parametrize("name", CASES)


class Case:
    """One folder of reference vectors with our model built from its configuration by plain arguments."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.case: dict[str, Any] = json.loads((REFERENCE / name / "case.json").read_text())
        io = load_file(REFERENCE / name / "io.safetensors")
        self.io = {key: t.to(dtype) if t.is_floating_point() else t for key, t in io.items()}
        c = self.config = self.case["config"]
        self.y: Tensor | None = self.io["y"] if c["num_classes"] else None
        divide = 2 if c.get("halve") else 1
        shared = {
            "image_size": c["image_size"],
            "patch_size": c["patch_size"],
            "token_channels": c["token_channels"],
            "num_classes": c["num_classes"],
            "in_context_tokens": c["in_context_size"],
            "in_context_start": c["in_context_start"],
            "mixer_norm_scale": c["mixer_norm_affine"],
        }
        encoder = Encoder(
            **shared,
            width=c["width"],
            blocks=c["layers"] // divide,
            heads=c["heads"],
            mixer_blocks=c["encoder_mixer_depth"],
        )
        decoder = Decoder(
            **shared,
            width=c.get("decoder_width", c["width"]),
            blocks=c.get("decoder_layers", c["layers"]) // divide,
            heads=c.get("decoder_heads", c["heads"]),
            mixer_blocks=c["decoder_mixer_depth"],
            pixel_head=c["pixel_head"],
            spherify_blocks=c["spherify_decoder_blocks"],
        )
        self.model = SphereEncoder(encoder, decoder)
        self.model.load_state_dict(load_file(REFERENCE / name / "weights.safetensors"))
        self.model.to(dtype)
        self.noise = NoiseSpec(angle_deg=c["noise_angle_deg"], hard_case_probability=c["hard_case_prob"])

    def generate(
        self, steps: int, fresh: bool = True, strength: str = "constant", w: float = 1, guide: str = "both"
    ) -> Tensor:
        networks = (self.model.encoder, self.model.decoder)
        if w != 1:
            null = self.model.null_labels(len(self.io["x"]))
            assert null is not None
            networks = guided(*networks, null, w, guide)  # type: ignore[arg-type,assignment]
        return generate(
            *networks,
            self.io["noise_initial"],
            self.y,
            steps=steps,
            sigma_max=self.noise.sigma_max,
            noise=lambda k: self.io[f"noise_step{k if fresh else 1}"],
            strength=strength,  # type: ignore[arg-type]
        )

    def train(self) -> Losses:
        values = self.case["losses"]["weights"]
        weights = LossWeights(
            rec=values["pixel_l1"], con=values["pixel_consistency_l1"], latent=values["latent_consistency"]
        )
        r, u = self.io["train_r_stratified"], self.io["train_u_hard"]
        step_noise = TrainingNoise(
            large=with_hard_cases(r, u, self.noise.hard_ratio, self.noise.hard_case_probability),
            small=0.5 * r * self.io["train_r_anchor"],
            noise=self.io["train_noise"],
            labels_encode=self.y,
            labels_decode=None if self.y is None else torch.cat((self.y, self.y)),
            labels_again=self.y,
        )
        images = self.io["x"] / 2 + 0.5
        sigma_max = self.noise.sigma_max
        return objective(
            self.model.encoder, self.model.decoder, images, step_noise, sigma_max=sigma_max, weights=weights
        )


@functools.cache
def case(name: str, dtype: torch.dtype) -> Case:
    return Case(name, dtype)


def check(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.detach(), expected, rtol=0, atol=TOLERANCE[expected.dtype][0])


@DTYPES
@EVERY_CASE
@torch.no_grad()
def test_encode_decode_reconstruct(name: str, dtype: torch.dtype) -> None:
    c = case(name, dtype)
    raw = c.model.encoder(c.io["x"], c.y)
    check(raw, c.io["encode_raw"])
    check(spherify(raw), c.io["encode_sphere"])
    check(c.model.decode(c.io["encode_sphere"], c.y), c.io["decode"])
    check(to_unit(c.model.reconstruct(c.io["x"], c.y)), c.io["reconstruct_01"])
    if c.y is not None:
        check(to_unit(c.model.reconstruct(c.io["x"])), c.io["reconstruct_null_class_01"])


@DTYPES
@EVERY_CASE
@torch.no_grad()
def test_generation(name: str, dtype: torch.dtype) -> None:
    c = case(name, dtype)
    check(c.generate(1), c.io["gen_steps1_01"])
    check(c.generate(4), c.io["gen_steps4_fresh_01"])
    check(c.generate(4, fresh=False), c.io["gen_steps4_shared_01"])
    check(c.generate(4, strength="decaying"), c.io["gen_steps4_decay_01"])
    if c.y is not None:
        for short, guide in (("enc", "encoder"), ("dec", "decoder"), ("combo", "both")):
            check(c.generate(3, w=1.4, guide=guide), c.io[f"gen_steps3_cfg1.4_{short}_01"])


@DTYPES
@EVERY_CASE
def test_one_training_step(name: str, dtype: torch.dtype) -> None:
    c = case(name, dtype)
    _, loss_tolerance, gradient_tolerance = TOLERANCE[dtype]
    c.model.zero_grad()
    losses = c.train()
    losses.total.backward()
    for key in ("x_large", "x_small", "z_large", "z_clean"):
        check(getattr(losses, key), c.io["train_" + key.replace("z_", "latent_")])
    expected = c.case["losses"]["values"]
    for key, ours in (
        ("total_loss", losses.total),
        ("dist_loss", losses.rec),
        ("pix_con_dist_loss", losses.con),
        ("lat_con_loss", losses.latent),
    ):
        assert float(ours.detach()) == pytest.approx(expected[key], rel=loss_tolerance), key
    weights = c.case["losses"]["weights"]
    for key, part, weight in (
        ("dist_psnr", losses.rec, weights["pixel_l1"]),
        ("pix_con_dist_psnr", losses.con, weights["pixel_consistency_l1"]),
    ):
        assert float(-10 * (part.detach() / weight).log10()) == pytest.approx(expected[key], abs=1e-5), key
    norms = {key: float(p.grad.norm()) for key, p in c.model.named_parameters() if p.grad is not None}
    assert norms.keys() == c.case["grad_norms"].keys()
    for key, norm in norms.items():
        assert norm == pytest.approx(c.case["grad_norms"][key], rel=gradient_tolerance, abs=1e-12), key


@EVERY_CASE
def test_parameter_counts(name: str) -> None:
    c = case(name, torch.float64)
    assert parameter_count(c.model) == c.case["num_params"]


@DTYPES
@pytest.mark.parametrize("weights", ["ema", "raw"])
@torch.no_grad()
def test_published_layout(weights: str, dtype: torch.dtype) -> None:
    package = read_package(REFERENCE / "published-layout")
    model = instantiate(package, weights).to(dtype)  # type: ignore[arg-type]
    path = "published-layout/ema_io.safetensors" if weights == "ema" else "cond-conv/io.safetensors"
    io = {key: t.to(dtype) if t.is_floating_point() else t for key, t in load_file(REFERENCE / path).items()}
    raw = model.encoder(io["x"], io["y"])
    check(raw, io["encode_raw"])
    check(model.decode(spherify(raw), io["y"]), io["decode"])
    assert package.recipe.noise.angle_deg == 80
    assert package.header["published"]["epoch"] == 7
