"""Comparing an export with the model before its file takes its name.

An export runs on inputs made from fixed seeds, at batches of 1, 2 and 7. Images are compared in [0, 1], a latent as
the image that the model decodes from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from spherectl.api import Model
from spherectl.errors import SpherectlError
from spherectl.export.graphs import GUIDANCE, Part, example
from spherectl.images import psnr
from spherectl.model import sampler
from spherectl.model.geometry import perturb, spherify
from spherectl.sampling import Guide

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")

BATCHES = (1, 2, 7)
MAX_DIFFERENCE = 1e-4  # in float32
MIN_MEDIAN_PSNR_DB = {"float16": 40.0, "bfloat16": 30.0, "int8": 30.0}
MAX_PSNR_DB = 200.0  # images that are the same have a PSNR too

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """How far an export is from the model.

    Attributes:
        max_difference: largest over all outputs: images in [0, 1], latents of RMS 1, and the encoder's `raw` divided by
            its RMS.
        median_psnr_db: over images, also those decoded from latents; 200 where nothing differs.
        images: images compared.
    """

    max_difference: float
    median_psnr_db: float
    images: int

    def sentence(self) -> str:
        """For a person."""
        return f"largest difference {self.max_difference:.1e}, median PSNR {self.median_psnr_db:.1f} dB"

    def table(self) -> dict[str, Any]:
        """For a file's metadata."""
        return {**asdict(self), "batches": list(BATCHES)}


def cases(model: Model, part: Part) -> list[Tensors]:
    """Inputs at every batch. A round of a conditional model has both networks guided, the encoder alone, and none."""
    made = [example(model, part, batch, seed=batch) for batch in BATCHES]
    if part != "round" or model.num_classes == 0:
        return made
    encoder = {"encoder_weights": torch.tensor([1 - GUIDANCE, GUIDANCE]), "decoder_weights": torch.tensor([0.0, 1.0])}
    alone = {"encoder_weights": torch.ones(1), "decoder_weights": torch.ones(1)}
    guided = [{**given, **encoder} for given in made]
    return made + guided + [{**given, "labels": given["labels"][1:], **alone} for given in made]


@torch.no_grad()
def expected(model: Model, part: Part, given: Tensors) -> Tensors:
    """The model's own outputs for a part's inputs, by the functions that `sample` uses."""
    moved = {name: tensor.to(model.device) for name, tensor in given.items()}
    labels, encode, decode = moved.get("labels"), model.network.encoder, model.network.decoder
    if part == "decoder":
        return {"image": sampler.to_unit(decode(spherify(moved["latent"]), labels))}
    if part == "encoder":
        raw = encode(2 * moved["image"] - 1, labels)
        return {"latent": spherify(raw), "raw": raw}
    y = None if labels is None else labels[-1]
    pair: tuple[sampler.Network, sampler.Network] = (encode, decode)
    if labels is not None and len(labels) == 2:
        guide: Guide = "both" if torch.equal(given["encoder_weights"], given["decoder_weights"]) else "encoder"
        pair = sampler.guided(encode, decode, labels[0], GUIDANCE, guide)
    x = pair[1](spherify(moved["latent"]), y)
    latent = perturb(spherify(pair[0](x, y)), moved["sigma"], moved["noise"])
    return {"next_latent": latent, "image": sampler.to_unit(x)}


def compare(model: Model, part: Part, given: Sequence[Tensors], found: Sequence[Tensors]) -> Difference:
    """Compare the outputs of an export with the model's.

    Args:
        model: in float32.
        part: which was run.
        given: its inputs, from `cases`.
        found: its outputs by name.
    """
    largest, found_db = 0.0, []
    for inputs, outputs in zip(given, found, strict=True):
        for name, right in expected(model, part, inputs).items():
            exact, got = right.cpu().double(), outputs[name].double()
            scale = exact.square().mean().sqrt() if name == "raw" else 1.0
            largest = max(largest, float(((got - exact) / scale).abs().nan_to_num(torch.inf).max()))
            if name == "raw":
                continue
            if name != "image":
                exact, got = (_image(model, latent, inputs.get("labels")) for latent in (exact, got))
            found_db.append(psnr(got, exact).clamp(max=MAX_PSNR_DB))
    together = torch.cat(found_db).nan_to_num(-torch.inf)
    return Difference(largest, float(together.median()), len(together))


def demand(difference: Difference, precision: str, what: str) -> None:
    """Refuse a file that differs too much.

    Args:
        difference: found by `compare`.
        precision: decides the limit.
        what: the file's name in the error.

    Raises:
        SpherectlError: a largest difference above 1e-4 in float32; a median PSNR under 40 dB in float16, 30 in int8
            and bfloat16.
    """
    if precision == "float32":
        if difference.max_difference <= MAX_DIFFERENCE:
            return
        limit = f"in float32 at most {MAX_DIFFERENCE:g} is allowed"
    else:
        if difference.median_psnr_db >= MIN_MEDIAN_PSNR_DB[precision]:
            return
        limit = f"in {precision} at least {MIN_MEDIAN_PSNR_DB[precision]:g} dB are required"
    more = "Choose more precision with --dtype." if precision != "float32" else "Please report this model's recipe."
    raise SpherectlError(
        f"{what} differs too much from the model ({difference.sentence()}); {limit}. It was not written.", more
    )


@torch.no_grad()
def _image(model: Model, latent: Tensor, labels: Tensor | None) -> Tensor:
    """(B, 3, H, W) float64: the model's image of a latent under the labels of the inputs."""
    y = None if labels is None else labels.reshape(-1, len(latent))[-1].to(model.device)
    x = model.network.decoder(latent.float().to(model.device), y)
    return sampler.to_unit(x).cpu().double()
