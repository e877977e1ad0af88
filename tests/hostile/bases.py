"""Valid files to start from, tiny ones, made once: a model, its samples, a run, a published checkpoint, a recipe."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = tempfile.TemporaryDirectory(prefix="spherectl-hostile-")
EXCERPT = ROOT / "tests" / "data" / "fashion-excerpt"
PUBLISHED = ROOT / "tests" / "reference" / "published-layout"

# The debug recipe, made smaller still: 4 tokens, one step of one image.
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "summary": "as small as can be",
    "model": {"image_size": 32, "size": "nano", "patch_size": 16, "compression_ratio": 96.0, "num_classes": 10}
    | {"pixel_head": "linear", "encoder_mixer_blocks": 0, "decoder_mixer_blocks": 0},
    "data": {"kind": "fashion-mnist", "fit": "pad", "flip": False, "channels": "grey", "workers": 0},
    "noise": {"angle_deg": 80.0},
    "loss": {"perceptual": "none", "rec": 1.0, "rec_perceptual": 0.0, "con": 0.5, "con_perceptual": 0.0},
    "optim": {"lr": 1e-3, "lr_batch_size": 8, "ema_half_life_images": 40},
    "run": {"length_images": 16, "batch_size": 8, "dtype": "float32", "default": True, "checkpoint_images": 16},
    "sample": {"steps": 1, "guidance": 1.0, "guide": "both", "noise": "shared", "strength": "constant"},
}


def command(*argv: str) -> Path:
    """Run a command line here, in a folder with the tiny model and an image; the folder."""
    from spherectl.cli.app import app

    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    (folder / "tiny.safetensors").write_bytes(tiny())
    (folder / "a.png").write_bytes(image())
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            app([word.replace("{work}", str(folder)) for word in argv])
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{argv} ended with {end.code}") from None
    return folder


def model(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bytes:
    """A model file."""
    return save(tensors, {"spherectl": json.dumps(header)})


@functools.cache
def tensors() -> dict[str, torch.Tensor]:
    """The weights of a tiny model, none of them zero."""
    from spherectl import recipe
    from spherectl.model.sphere import build, initialise

    network = build(recipe.parse(RECIPE, "the tiny recipe").model)
    initialise(network, seed=0)
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor.detach() + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in network.named_parameters()
    }


@functools.cache
def header() -> dict[str, Any]:
    """Its header, with every key that training writes."""
    path = run_folder() / "model.safetensors"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, Any] = json.loads(json.loads(file.read(length))["__metadata__"]["spherectl"])
    return found


@functools.cache
def tiny() -> bytes:
    """The model file."""
    return model(header(), tensors())


@functools.cache
def run_folder() -> Path:
    """A finished run of the tiny recipe."""
    from spherectl import recipe as recipes
    from spherectl.data.datasets import open_dataset
    from spherectl.training.loop import train
    from spherectl.training.plan import resolve

    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name)) / "tiny"
    recipe, cpu = recipes.parse(RECIPE, "the tiny recipe"), torch.device("cpu")
    images = open_dataset(recipe.data, recipe.model.image_size, root=EXCERPT)
    train(resolve(recipe, images, cpu), images, folder, device=cpu)
    return folder


@functools.cache
def run_files() -> dict[str, bytes]:
    """The files of that run by name."""
    return {
        str(path.relative_to(run_folder())): path.read_bytes()
        for path in sorted(run_folder().rglob("*"))
        if path.is_file()
    }


@functools.cache
def published() -> dict[str, bytes]:
    """The files of a checkpoint as the authors publish them."""
    return {
        str(path.relative_to(PUBLISHED)): path.read_bytes()
        for path in (PUBLISHED / "cfg.json", *PUBLISHED.glob("ckpt/*"))
    }


def image(size: tuple[int, int] = (32, 32), mode: str = "RGB", format_: str = "PNG", **how: Any) -> bytes:
    """An image file of stripes."""
    pixels = np.add.outer(np.arange(size[1]), 3 * np.arange(size[0])).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(written, format_, **how)
    return written.getvalue()


def png_with(text: str, key: str = "spherectl") -> bytes:
    """A PNG that says something of itself."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, text) if not text.isascii() else info.add_text(key, text)
    return image(pnginfo=info)


@functools.cache
def sampled(*arguments: str) -> dict[str, Any]:
    """What a sample of the tiny model says of itself, as `--like` reads it."""
    folder = command("sample", "--model", "{work}/tiny.safetensors", *arguments, "--out", "{work}/o.png")
    with Image.open(folder / "o.png") as pil_image:
        found: dict[str, Any] = json.loads(pil_image.info["spherectl"])
    return found


@functools.cache
def latents() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a file of latents of the tiny model."""
    from safetensors import safe_open

    folder = command("encode", "{work}/a.png", "--model", "{work}/tiny.safetensors", "--out", "{work}/l.safetensors")
    with safe_open(folder / "l.safetensors", "pt") as file:
        return json.loads(file.metadata()["spherectl"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def npz(arrays: dict[str, Any]) -> bytes:
    """An .npz file."""
    written = io.BytesIO()
    np.savez(written, **arrays)
    return written.getvalue()


def npy_header(shape: Any, descr: Any = "<f8", order: Any = False) -> bytes:
    """The head of an array file, whatever it claims."""
    text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode("utf-8", "replace")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65535)) + text


def npz_of(members: dict[str, bytes], zeros: dict[str, int] | None = None) -> bytes:
    """An .npz of raw members, and after each a number of zero bytes, which are packed well: a bomb."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
                left = (zeros or {}).get(name, 0)
                while left > 0:
                    file.write(bytes(min(left, 1 << 22)))
                    left -= 1 << 22
    return written.getvalue()


def tar_of(members: list[tuple[str, bytes, dict[str, Any]]]) -> bytes:
    """A tar whose headers may say anything: (name, content, fields of the header over the true ones)."""
    out = b""
    for name, content, fields in members:
        size = fields.get("size", b"%011o" % len(content))
        head = name.encode("utf-8", "surrogateescape")[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
        head += size[:12].ljust(12, b"\0") + b"00000000000\0" + b" " * 8 + fields.get("type", b"0")
        head += fields.get("link", b"").ljust(100, b"\0") + b"ustar\x0000"
        head = head.ljust(512, b"\0")
        checksum = b"%06o\0 " % sum(head)
        out += head[:148] + checksum + head[156:] + content + b"\0" * (-len(content) % 512)
    return out + b"\0" * 1024


def prepare() -> None:
    """Make all of them now."""
    for make in (tiny, run_files, published, latents):
        make()
    for count in ("1", "4"):
        sampled("--count", count)
