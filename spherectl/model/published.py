"""The published checkpoint layout: cfg.json beside ckpt/ep####.pth, a pickle of tensors that is never executed.

The pickle is looked through before torch reads it, so that nothing in it can ask for more than the file has bytes.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from spherectl.classes import names_of
from spherectl.documents import parse_table
from spherectl.errors import FileError, UsageError
from spherectl.files import read_bytes, replacing, write_text
from spherectl.model import pickles
from spherectl.model.package import Package, check_types, check_weights
from spherectl.recipe import MAX_CLASSES, MAX_EPOCHS, MAX_NAME, SIZES, Recipe, parse
from spherectl.safetensors_header import ARCHITECTURE, FORMAT, Count, Text
from spherectl.shown import listed, quoted
from spherectl.tables import describe

# Our [model] keys beside the keys of a published cfg.json.
_PUBLISHED_KEYS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "token_channels": "token_channels",
    "in_context_tokens": "in_context_size",
    "pixel_head": "pixel_head_type",
    "halve_depth": "halve_model_size",
    "spherify_decoder_blocks": "spherify_model",
    "encoder_mixer_blocks": "vit_enc_latent_mlp_mixer_depth",
    "decoder_mixer_blocks": "vit_dec_latent_mlp_mixer_depth",
    "mixer_norm_scale": "affine_latent_mlp_mixer",
}
# What only Sphere Encoder 2 has: keys of its cfg.json, and beginnings of its tensors' names.
_SECOND_KEYS = {"use_angle_condition", "load_pretrained_encoder", "use_qk_norm"}
_SECOND_TENSORS = ("decoder.alpha_embedder.", "encoder.encoder.")

MAX_CFG = 1 << 20  # bytes of cfg.json; published ones have 1 to 4 kB


class Cfg(BaseModel):
    """What counts in a published cfg.json, which has many other keys."""

    model_config = ConfigDict(strict=True, extra="allow")

    dataset_name: Text = ""
    vit_enc_model_size: Text
    vit_dec_model_size: Text
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)]
    cond_generator: bool
    epochs: Annotated[float, Field(ge=0, le=MAX_EPOCHS)] | None = None
    noise_sigma_max_angle: float | None = None
    image_size: int
    patch_size: int
    token_channels: int
    in_context_size: int
    pixel_head_type: Text
    halve_model_size: bool
    spherify_model: bool
    vit_enc_latent_mlp_mixer_depth: int
    vit_dec_latent_mlp_mixer_depth: int
    affine_latent_mlp_mixer: bool


class State(BaseModel):
    """What counts in a checkpoint; `model` and `ema_model` hold tensors by name."""

    model_config = ConfigDict(strict=True, extra="allow", arbitrary_types_allowed=True)

    model: dict[str, Tensor]
    ema_model: dict[str, Tensor] | None = None
    epoch: Count = 0


def newest_checkpoint(folder: Path) -> Path:
    """The ckpt/ep####.pth with the highest number in a published folder."""
    named = [(re.fullmatch(r"ep([0-9]+)\.pth", p.name), p) for p in (Path(folder) / "ckpt").glob("ep*.pth")]
    found = {int(match[1]): p for match, p in named if match}
    if not found:
        raise FileError(f"{folder} has a cfg.json but no checkpoint ckpt/ep####.pth.")
    return found[max(found)]


def read_published(folder: Path, checkpoint: Path | None = None) -> Package:
    """Read a checkpoint folder in the layout of the published models (cfg.json, ckpt/ep####.pth).

    Nothing in the pickle is executed: it is read with weights_only. Mixer scalars come as 0-d and as (1,); the header
    remembers which, so that `write_published` gives back what was read.

    The weights to use are copied into memory. Raw ones beside them stay mapped, since a file may hold two sets of
    weights and an optimiser's state, of which most readers want one: they go with the file, should that be cut.

    Raises:
        FileError: something is missing or damaged, or it is a Sphere Encoder 2.
    """
    folder = Path(folder)
    cfg = _read_cfg(folder / "cfg.json", folder)
    recipe = _recipe_of_cfg(cfg, folder)
    path = checkpoint or newest_checkpoint(folder)
    state = _read_state(path)
    for tensors in (state.model, state.ema_model or {}):
        if any(name.startswith(_SECOND_TENSORS) for name in tensors):
            raise _second(folder)
        if sum(t.numel() * t.element_size() for t in tensors.values()) > path.stat().st_size:
            raise FileError(f"{path} is not a readable checkpoint: its tensors are larger than the file.")
        check_types(tensors, str(path))
    averaged = state.ema_model
    weights = {name: tensor.clone() for name, tensor in (averaged or state.model).items()}
    check_weights(weights, str(path))
    sets = {"model": state.model, "ema_model": averaged or {}}
    scalars = {key: sorted(name for name, t in tensors.items() if t.dim() == 0) for key, tensors in sets.items()}
    data = str(cfg.get("dataset_name", ""))
    header = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "recipe": recipe.to_table(),
        "weights": "ema" if averaged else "raw",
        "class_names": list(names_of(data, recipe.model.classes)),
        "channels": "rgb",
        "data": data or "unknown",
        "licence": "unknown",
        "published": {"cfg": cfg, "epoch": state.epoch, "scalars": scalars},
    }
    return Package(header, _at_least_1d(weights), _at_least_1d(state.model) if averaged else None)


def write_published(folder: Path, package: Package) -> None:
    """Write a model in the layout of the published checkpoints: `folder`/cfg.json and `folder`/ckpt/ep####.pth."""
    folder, recipe = Path(folder), package.recipe
    published = package.header.get("published", {})
    cfg = {**published.get("cfg", {}), **_cfg_of_recipe(recipe)}
    for key in ("vit_enc_model_size", "vit_dec_model_size", "num_classes", "dataset_name"):
        cfg[key] = published.get("cfg", {}).get(key, cfg[key])
    scalars = published.get("scalars", {})
    sets = {"model": package.raw or package.weights}
    if package.header.get("weights") == "ema":
        sets["ema_model"] = package.weights
    state: dict[str, Any] = {
        key: {n: t.reshape(()) if n in scalars.get(key, ()) else t for n, t in tensors.items()}
        for key, tensors in sets.items()
    }
    state["epoch"] = published.get("epoch", 0)
    with replacing(folder / "ckpt" / f"ep{state['epoch']:04d}.pth") as temporary:
        torch.save(state, held := io.BytesIO())  # in memory first: on a full disk torch's own writer fails badly
        temporary.write_bytes(held.getbuffer())
    write_text(folder / "cfg.json", json.dumps(cfg, indent=2) + "\n")


def _read_state(path: Path) -> State:
    """What a checkpoint holds, mapped, its pickle looked through."""
    state = pickles.load(path, "checkpoint", mapped=True)
    try:
        return State.model_validate(state)
    except ValidationError as error:
        raise FileError(
            f"{path} is not a checkpoint in the published layout: {listed(describe(error, State), 3, '; ')}."
        ) from None


def _at_least_1d(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.reshape(1) if t.dim() == 0 else t for name, t in tensors.items()}


def _read_cfg(path: Path, folder: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, MAX_CFG)
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None
    cfg = parse_table(text, str(path))
    if _SECOND_KEYS & cfg.keys():
        raise _second(folder)
    try:
        Cfg.model_validate(cfg)
    except ValidationError as error:
        raise FileError(
            f"{path} does not say what its networks are: {listed(describe(error, Cfg), 3, '; ')}."
        ) from None
    return cfg


def _second(folder: Path) -> FileError:
    return FileError(f"{folder} is a Sphere Encoder 2 checkpoint, which this version does not read yet.")


def _size_of(name: str) -> str:
    """Our name of a published size name."""
    size = name.lower().removeprefix("reference-")
    if size not in SIZES:
        raise FileError(f"The checkpoint's cfg.json names a size {quoted(name)}; known are {', '.join(SIZES)}.")
    return size


def _recipe_of_cfg(cfg: dict[str, Any], folder: Path) -> Recipe:
    model = {ours: cfg[theirs] for ours, theirs in _PUBLISHED_KEYS.items()}
    model["size"], decoder = _size_of(cfg["vit_enc_model_size"]), _size_of(cfg["vit_dec_model_size"])
    if decoder != model["size"]:
        model["decoder_size"] = decoder
    model["num_classes"] = cfg["num_classes"] if cfg["cond_generator"] else 0
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(folder).resolve().name.lower()).strip("-._")[:MAX_NAME] or "published"
    table: dict[str, Any] = {"name": name, "model": model, "run": {"length_epochs": cfg.get("epochs") or 1}}
    if cfg.get("noise_sigma_max_angle") is not None:
        table["noise"] = {"angle_deg": cfg["noise_sigma_max_angle"]}
    try:
        return parse(table, str(folder / "cfg.json"))
    except UsageError as error:
        raise FileError(error.message) from None


def _cfg_of_recipe(recipe: Recipe) -> dict[str, Any]:
    spec = recipe.model
    resolved = {**spec.model_dump(), "patch_size": spec.patch, "token_channels": spec.channels_per_token}
    cfg = {theirs: resolved[ours] for ours, theirs in _PUBLISHED_KEYS.items()}
    return {
        "dataset_name": recipe.data.kind,
        "vit_enc_model_size": spec.size,
        "vit_dec_model_size": spec.decoder_size or spec.size,
        "num_classes": spec.classes,
        "cond_generator": spec.classes > 0,
        "noise_sigma_max_angle": recipe.noise.angle_deg,
        **cfg,
    }
