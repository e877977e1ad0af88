"""Model files: one safetensors file with a JSON header, and the published checkpoint layout.

In our file the tensors stand under the keys of the published layout (`encoder....`, `decoder....`); a second, raw set
beside averaged weights stands under `raw.`. The header's `spherectl` key is JSON and says what the file is.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from spherectl.classes import names_of
from spherectl.errors import FileError, UsageError
from spherectl.files import replacing, write_text
from spherectl.model.sphere import SphereEncoder, build
from spherectl.recipe import SIZES, Recipe, parse

FORMAT = 1
ARCHITECTURE = "sphere-encoder"
BASELINES = ("vae", "diffusion")  # the kinds of `model.kind` that files and architectures are named after
HEADER_KEY = "spherectl"
RAW = "raw."

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


@dataclass(frozen=True)
class Package:
    """A model at rest.

    Attributes:
        header: what the file says of itself; at least `recipe` (a table) and `weights` ("ema" or "raw").
        weights: the tensors to use, averaged ones where there are any.
        raw: the raw tensors beside averaged `weights`, or None.
    """

    header: dict[str, Any]
    weights: dict[str, Tensor]
    raw: dict[str, Tensor] | None = field(default=None)

    @property
    def recipe(self) -> Recipe:
        """The recipe in the header, checked."""
        return parse(self.header["recipe"], "the model's header")


def save_file(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, whole or not at all."""
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(contiguous, temporary, metadata={HEADER_KEY: text})
        except safetensors.SafetensorError as error:
            raise FileError(f"Cannot write {path}: {error}.", "Nothing was changed; make room and try again.") from None


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of one of our files.

    Raises:
        FileError: no file, not safetensors, cut short, or without our header.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
        header = json.loads(text) if text is not None else None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(header, dict):
        raise FileError(f"{path} is a safetensors file without a spherectl header, so its networks are unknown.")
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped: a page is read when it is first used."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> FileError:
    if not Path(path).exists():
        return FileError(f"There is no file {path}.")
    reason = str(error).splitlines()[0].rstrip(".")
    return FileError(f"{path} is not a whole safetensors file ({reason}).", "Fetch it or copy it again.")


def write_package(path: Path, package: Package) -> None:
    """Write a model as one file."""
    kind = package.header["recipe"].get("model", {}).get("kind")
    header = {**package.header, "format": FORMAT, "architecture": kind if kind in BASELINES else ARCHITECTURE}
    raw = {RAW + name: tensor for name, tensor in (package.raw or {}).items()}
    save_file(path, {**package.weights, **raw}, header)


def read_package(path: Path, architecture: str = ARCHITECTURE) -> Package:
    """Read a model: one of our files, or a published checkpoint folder.

    Args:
        path: of it.
        architecture: that it must have; a Sphere Encoder's, or one of `BASELINES`.

    Raises:
        FileError: missing, damaged, of a newer format, or of an architecture this version does not know.
        UsageError: a baseline where a Sphere Encoder is needed, or the other way round.
    """
    if Path(path).is_dir():
        return read_published(path)
    header = read_header(path)
    check_header(path, header, architecture)
    tensors = read_tensors(path)
    raw = {name.removeprefix(RAW): tensor for name, tensor in tensors.items() if name.startswith(RAW)}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(RAW)}
    return Package(header, weights, raw or None)


def check_header(path: Path, header: dict[str, Any], architecture: str = ARCHITECTURE) -> None:
    """Refuse what this version cannot read, kindly."""
    found, version = header.get("architecture"), header.get("format")
    if found not in (ARCHITECTURE, *BASELINES):
        raise FileError(f"{path} holds a network of architecture {found!r}; models here are {ARCHITECTURE!r}.")
    if found in BASELINES and architecture == ARCHITECTURE:
        raise UsageError(
            f"{path} is a baseline ({found}), here to compare with, and no Sphere Encoder.",
            f"`spherectl plot samples {path}` draws with it.",
        )
    if found != architecture:
        raise UsageError(f"{path} holds a {found}; a {architecture} is needed here.", "Give another model.")
    if version != FORMAT:
        raise FileError(f"{path} is in model format {version!r}; this version reads {FORMAT}.", "Update spherectl.")
    if not isinstance(header.get("recipe"), dict):
        raise FileError(f"The header of {path} has no recipe, so its networks are unknown.")


def instantiate(package: Package, weights: Literal["ema", "raw"] = "ema") -> SphereEncoder:
    """Build the networks of a package and load its weights, in eval mode without gradients.

    Args:
        package: from `read_package`.
        weights: "ema" takes averaged weights where there are any; "raw" those of the last step.

    Raises:
        UsageError: raw weights are asked for and the file has none.
        FileError: tensors are missing, left over, or of another shape than the header's recipe says.
    """
    tensors = package.weights
    if weights == "raw" and package.header.get("weights", "raw") != "raw":
        if package.raw is None:
            raise UsageError("This model file has averaged (EMA) weights only.", "Leave --weights raw out.")
        tensors = package.raw
    with torch.device("meta"):
        model = build(package.recipe.model)
    fill(model, tensors)
    return model


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give networks of no memory yet their weights, in eval mode without gradients.

    Raises:
        FileError: tensors are missing, left over, or of another shape than the networks'.
    """
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is left over" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise FileError(f"The weights do not fit the header's recipe: {'; '.join(sorted(problems)[:3])}{more}.")
    model.load_state_dict(tensors, assign=True)
    model.eval().requires_grad_(False)


def newest_checkpoint(folder: Path) -> Path:
    """The ckpt/ep####.pth with the highest number in a published folder."""
    named = [(re.fullmatch(r"ep(\d+)\.pth", p.name), p) for p in (Path(folder) / "ckpt").glob("ep*.pth")]
    found = {int(match[1]): p for match, p in named if match}
    if not found:
        raise FileError(f"{folder} has a cfg.json but no checkpoint ckpt/ep####.pth.")
    return found[max(found)]


def read_published(folder: Path, checkpoint: Path | None = None) -> Package:
    """Read a checkpoint folder in the layout of the published models (cfg.json, ckpt/ep####.pth).

    Nothing in the pickle is executed: it is read with weights_only. Mixer scalars come as 0-d and as (1,); the header
    remembers which, so that `write_published` gives back what was read.
    """
    folder = Path(folder)
    cfg = _read_cfg(folder / "cfg.json")
    path = checkpoint or newest_checkpoint(folder)
    try:
        # Mapped: of two sets of weights and an optimiser's state, one set is what a forward reads.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is damaged, or holds more than tensors, which is never executed here"
        raise FileError(f"{path} is not a readable checkpoint: {reason}.") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise FileError(f"{path} is not a checkpoint in the published layout: it has no state dict under 'model'.")
    recipe = _recipe_of_cfg(cfg, folder)
    averaged = state.get("ema_model")
    sets = {key: state.get(key) or {} for key in ("model", "ema_model")}
    scalars = {key: sorted(name for name, t in tensors.items() if t.dim() == 0) for key, tensors in sets.items()}
    published = {"cfg": cfg, "epoch": int(state.get("epoch", 0)), "scalars": scalars}
    header = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "recipe": recipe.to_table(),
        "weights": "ema" if averaged else "raw",
        "class_names": list(names_of(str(cfg.get("dataset_name", "")), recipe.model.classes)),
        "channels": "rgb",
        "data": str(cfg.get("dataset_name", "unknown")),
        "licence": "unknown",
        "published": published,
    }
    raw = _at_least_1d(state["model"])
    if averaged:
        return Package(header, _at_least_1d(averaged), raw)
    return Package(header, raw)


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
        torch.save(state, temporary)
    write_text(folder / "cfg.json", json.dumps(cfg, indent=2) + "\n")


def _at_least_1d(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.reshape(1) if t.dim() == 0 else t for name, t in tensors.items()}


def _read_cfg(path: Path) -> dict[str, Any]:
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read {path}: {error}.") from None
    needed = {*_PUBLISHED_KEYS.values(), "vit_enc_model_size", "vit_dec_model_size", "num_classes", "cond_generator"}
    missing = sorted(needed - cfg.keys()) if isinstance(cfg, dict) else sorted(needed)
    if missing:
        raise FileError(f"{path} lacks {', '.join(missing)}, so its networks are unknown.")
    return cfg  # type: ignore[no-any-return]


def _size_of(name: str) -> str:
    """Our name of a published size name."""
    size = name.lower().removeprefix("reference-")
    if size not in SIZES:
        raise FileError(f"The checkpoint's cfg.json names a size {name!r}; known are {', '.join(SIZES)}.")
    return size


def _recipe_of_cfg(cfg: dict[str, Any], folder: Path) -> Recipe:
    model = {ours: cfg[theirs] for ours, theirs in _PUBLISHED_KEYS.items()}
    model["size"], decoder = _size_of(cfg["vit_enc_model_size"]), _size_of(cfg["vit_dec_model_size"])
    if decoder != model["size"]:
        model["decoder_size"] = decoder
    model["num_classes"] = cfg["num_classes"] if cfg["cond_generator"] else 0
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(folder).resolve().name.lower()).strip("-._") or "published"
    table = {"name": name, "model": model, "run": {"length_epochs": cfg.get("epochs") or 1}}
    if "noise_sigma_max_angle" in cfg:
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
