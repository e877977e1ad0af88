"""Reading and writing `layouts.PUBLISHED`: a JSON of settings, and a pickle of tensors that is never executed.

The pickle is checked before torch reads it, so that nothing in it can ask for more than the file has bytes.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spherectl.classes import names_of
from spherectl.documents import parse_table
from spherectl.errors import FileError, UsageError
from spherectl.files import read_bytes, replacing, write_text
from spherectl.model.formats import pickles
from spherectl.model.formats.header import ARCHITECTURE, FORMAT, Count, Text
from spherectl.model.formats.layouts import PUBLISHED
from spherectl.model.formats.package import Package, check_types, check_weights, packed
from spherectl.recipe import MAX_CLASSES, MAX_EPOCHS, MAX_NAME, SIZES, Recipe, parse
from spherectl.shown import quoted
from spherectl.validation import validated

# Our [model] keys, and the keys of the published settings.
_KEYS = {
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
# What only Sphere Encoder 2 has: keys of its settings, and beginnings of its tensors' names.
_SECOND_KEYS = {"use_angle_condition", "load_pretrained_encoder", "use_qk_norm"}
_SECOND_TENSORS = ("decoder.alpha_embedder.", "encoder.encoder.")

MAX_CFG = 1 << 20  # bytes of the settings; published ones have 1 to 4 kB


class Cfg(BaseModel):
    """The keys that are read from the settings, which have many others."""

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
    """The keys that are read from a checkpoint; `model` and `ema_model` hold tensors by name."""

    model_config = ConfigDict(strict=True, extra="allow", arbitrary_types_allowed=True)

    model: dict[str, Tensor]
    ema_model: dict[str, Tensor] | None = None
    epoch: Count = 0


def read(folder: Path) -> Package:
    """Read a published checkpoint folder.

    Nothing in the pickle is executed: it is read with weights_only. Mixer scalars come as 0-d and as (1,); the header
    records which, so that `write` gives back what was read.

    The weights to use are copied into memory. Raw weights beside them stay mapped, because most readers want one of the
    two sets; they are lost if the file is cut.

    Raises:
        FileError: something is missing or damaged, or it is a Sphere Encoder 2.
    """
    folder = Path(folder)
    cfg = _read_cfg(folder / PUBLISHED.config, folder)
    recipe = _recipe_of_cfg(cfg, folder)
    path = PUBLISHED.newest(folder)
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
    return packed(header, recipe, _at_least_1d(weights), _at_least_1d(state.model) if averaged else None)


def write(folder: Path, package: Package) -> None:
    """Write a model as a published checkpoint folder."""
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
    with replacing(folder / PUBLISHED.checkpoint.replace("####", f"{state['epoch']:04d}")) as temporary:
        torch.save(state, held := io.BytesIO())  # in memory first: on a full disk torch's own writer fails badly
        temporary.write_bytes(held.getbuffer())
    write_text(folder / PUBLISHED.config, json.dumps(cfg, indent=2) + "\n")


def describe(folder: Path, facts: dict[str, Any]) -> None:
    """Put a table into the settings of a written folder, under a key that other readers leave alone."""
    path = folder / PUBLISHED.config
    cfg = parse_table(read_bytes(path, MAX_CFG), str(path))
    write_text(path, json.dumps({**cfg, "spherectl": facts}, indent=2) + "\n")


def _read_state(path: Path) -> State:
    """What a checkpoint holds, mapped, its pickle looked through."""
    state = pickles.load(path, "checkpoint", mapped=True)
    return validated(State, state, f"{path} is not a checkpoint in the published layout")


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
    validated(Cfg, cfg, f"{path} does not say what its networks are")
    return cfg


def _second(folder: Path) -> FileError:
    return FileError(f"{folder} is a Sphere Encoder 2 checkpoint, which this version does not read yet.")


def _size_of(name: str) -> str:
    """Our name of a published size name."""
    size = name.lower().removeprefix("reference-")
    if size not in SIZES:
        raise FileError(
            f"The checkpoint's {PUBLISHED.config} names a size {quoted(name)}; known are {', '.join(SIZES)}."
        )
    return size


def _recipe_of_cfg(cfg: dict[str, Any], folder: Path) -> Recipe:
    model = {ours: cfg[theirs] for ours, theirs in _KEYS.items()}
    model["size"], decoder = _size_of(cfg["vit_enc_model_size"]), _size_of(cfg["vit_dec_model_size"])
    if decoder != model["size"]:
        model["decoder_size"] = decoder
    model["num_classes"] = cfg["num_classes"] if cfg["cond_generator"] else 0
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(folder).resolve().name.lower()).strip("-._")[:MAX_NAME] or "published"
    table: dict[str, Any] = {"name": name, "model": model, "run": {"length_epochs": cfg.get("epochs") or 1}}
    if cfg.get("noise_sigma_max_angle") is not None:
        table["noise"] = {"angle_deg": cfg["noise_sigma_max_angle"]}
    try:
        return parse(table, str(folder / PUBLISHED.config))
    except UsageError as error:
        raise FileError(error.message) from None


def _cfg_of_recipe(recipe: Recipe) -> dict[str, Any]:
    spec = recipe.model
    resolved = {**spec.model_dump(), "patch_size": spec.patch, "token_channels": spec.channels_per_token}
    cfg = {theirs: resolved[ours] for ours, theirs in _KEYS.items()}
    return {
        "dataset_name": recipe.data.kind,
        "vit_enc_model_size": spec.size,
        "vit_dec_model_size": spec.decoder_size or spec.size,
        "num_classes": spec.classes,
        "cond_generator": spec.classes > 0,
        "noise_sigma_max_angle": recipe.noise.angle_deg,
        **cfg,
    }
