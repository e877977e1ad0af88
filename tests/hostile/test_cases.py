"""Inputs that failed once, each for a whole kind: how they end, and what their sentence says."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.hostile import bases
from tests.hostile.archives import WIDTH, array_bytes
from tests.hostile.harness import Attempt, File, Harness, fifo
from tests.hostile.images import GS, POSTSCRIPT, executable
from tests.hostile.models import pickled_bomb
from tests.hostile.values import command_lines

Files = dict[str, File]

M = "m.safetensors"
SAMPLE = "sample --model M --count 1 --steps 1 OUT"
PUBLISHED = "sample --model p --count 1 OUT"
EDIT = "edit photo.png --reconstruct --model M OUT"
LIKE = "sample --like like.png OUT"


def changed(**keys: Any) -> Files:
    """The tiny model with other words in its header; `recipe__model__x` stands for a nested key."""
    header = copy.deepcopy(bases.header())
    for name, value in keys.items():
        *path, last = name.split("__")
        place = header
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return {M: bases.model(header, bases.tensors())}


def weighing(change: Callable[[str, torch.Tensor], torch.Tensor], **more: torch.Tensor) -> Files:
    """The tiny model with other weights."""
    tensors = {name: change(name, tensor) for name, tensor in bases.tensors().items()} | more
    return {M: bases.model(bases.header(), tensors)}


def unnumbered(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * float("nan") if name.startswith("decoder.blocks.0") and tensor.ndim == 2 else tensor


def checkpoint(content: File) -> Files:
    """A published folder whose checkpoint is something else."""
    return {f"p/{name}": value for name, value in bases.published().items()} | {"p/ckpt/ep0007.pth": content}


def photo(content: File) -> Files:
    return {M: bases.tiny(), "photo.png": content, "bin/gs": executable(GS)}


def palette_of_177_megapixels() -> bytes:
    big = Image.new("P", (13300, 13300))
    big.putpalette(list(range(256)) * 3)
    written = io.BytesIO()
    big.save(written, "PNG", transparency=0, compress_level=1)
    return written.getvalue()


def statistics_of_8_gigabytes() -> bytes:
    members = {"mu.npy": bases.npy_header((1 << 30,)), "sigma.npy": array_bytes(torch.eye(WIDTH).numpy())}
    return bases.npz_of(members, {"mu.npy": 256 << 20})  # the rest is said to be there, and is not


def configured() -> Files:
    cfg = json.loads(bases.published()["cfg.json"]) | {"vit_enc_latent_mlp_mixer_depth": 10**6}
    return {"p/cfg.json": json.dumps(cfg).encode(), "p/ckpt/ep0007.pth": b"is not read"}


def says(text: str) -> Files:
    return {"like.png": bases.png_with(text)}


BIG = [("image_size", 10**9), ("decoder_mixer_blocks", 10**6), ("in_context_tokens", 10**9), ("image_size", 8192)]
NUMBERS = [("image_size", "1" + "0" * 30), ("compression_ratio", "1e-300"), ("token_channels", "1" + "0" * 18)]
NUMBERS += [("encoder_mixer_blocks", "1" + "0" * 9), ("size", "x" * 100_000)]
ESCAPES = ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", *"cdefghij"]

# The command line, its files, its exit code, and a word of its sentence.
Case = tuple[str, Callable[[], Files], int, str]
CASES: dict[str, Case] = {
    # Headers of model files
    **{f"names-{n}": (SAMPLE, lambda n=n: changed(class_names=n), 1, "class_names") for n in (7, True)},
    "names-list-of-numbers": (SAMPLE, lambda: changed(class_names=[1] * 10), 1, "class_names"),
    "names-nested": (SAMPLE, lambda: changed(class_names={"a": 1}), 1, "class_names"),
    "format-true": (SAMPLE, lambda: changed(format=True), 1, "format"),
    "images-seen-text": (
        *("zoo add M --index zoo/index.toml --licence MIT", lambda: changed(images_seen="many"), 1, "images_seen"),
    ),
    **{
        f"model-{k}-{v}": (SAMPLE, lambda k=k, v=v: changed(**{f"recipe__model__{k}": v}), 1, "tensors") for k, v in BIG
    },
    "steps": ("sample --model M --count 1 OUT", lambda: changed(recipe__sample__steps=10**9), 1, "steps"),
    "escapes-in-names": ("sample --model M --class zzz OUT", lambda: changed(class_names=ESCAPES), 2, "\\x1b"),
    # Tensors
    "escapes-in-tensors": (
        *(SAMPLE, lambda: weighing(lambda _, t: t, **{"\x1b[31mevil": torch.zeros(1)}), 1, "\\x1b[31mevil"),
    ),
    "complex": (SAMPLE, lambda: weighing(lambda _, t: t.to(torch.complex64)), 1, "complex64"),
    "integers": (SAMPLE, lambda: weighing(lambda _, t: t.to(torch.int64)), 1, "int64"),
    "no-numbers": (SAMPLE, lambda: weighing(unnumbered), 1, "decoder.blocks.0"),
    # Published folders
    "pickle-stack": (PUBLISHED, lambda: checkpoint(b"\x80\x02."), 1, "p/ckpt/ep0007.pth"),
    "pickle-memo": (PUBLISHED, lambda: checkpoint(b"\x80\x02h\xff."), 1, "p/ckpt/ep0007.pth"),
    "pickle-bytes": (PUBLISHED, lambda: checkpoint(pickled_bomb(8 << 30)), 1, "p/ckpt/ep0007.pth"),
    "configuration": (PUBLISHED, configured, 1, "cfg.json: model.encoder_mixer_blocks"),
    "checkpoint-is-a-pipe": (PUBLISHED, lambda: checkpoint(fifo), 1, "not a regular file"),
    # Images
    "postscript": (EDIT, lambda: photo(POSTSCRIPT), 1, "photo.png"),
    "image-is-a-pipe": (EDIT, lambda: photo(fifo), 1, "not a regular file"),
    "palette": (EDIT, lambda: photo(palette_of_177_megapixels()), 1, "photo.png"),
    "provenance-deep": (LIKE, lambda: says("[" * 100_000), 1, "like.png"),
    "provenance-chunk": (
        *(LIKE, lambda: says(json.dumps({"format": 1, "chunk": 2**63})), 1, "chunk: expected a list, got"),
    ),
    # Statistics, lists, recipes, settings
    "statistics": (
        "evaluate M --count 64 --steps 1 --reference huge.npz --data DATA --out report",
        lambda: {M: bases.tiny(), "huge.npz": statistics_of_8_gigabytes()},
        1,
        "huge.npz",
    ),
    "list": (
        "train debug --data deep.jsonl --set data.kind=jsonl --dry-run",
        lambda: {"deep.jsonl": b'{"image_path": ' + b"[" * 50_000 + b"\n"},
        1,
        "line 1",
    ),
    **{f"recipe-{k}": (f"train debug --set model.{k}={v} --dry-run", dict, 2, f"model.{k}") for k, v in NUMBERS},
    "home-of-nobody": ("sample --model ~nouser/x.safetensors", dict, 2, "nouser"),
    "pattern": ("encode a** --model M --out l.safetensors", lambda: {M: bases.tiny()}, 2, "a**"),
}
SLOW = {"palette", "statistics"}
MARKED = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.fast) for name in CASES]


@pytest.mark.skipif(sys.platform != "linux", reason="the worker's memory is read as Linux tells it")
@pytest.mark.parametrize("name", MARKED)
def test_every_promise_is_kept(harness: Harness, name: str) -> None:
    line, files, code, said = CASES[name]
    (argv,) = command_lines(line)
    attempt = Attempt("case", argv, files(), {"PATH": "{work}/bin:/usr/bin:/bin"}, wrong=True)
    assert harness.run(attempt) == [], attempt
    assert harness.code == code, harness.said
    assert said in harness.said


@pytest.mark.fast
def test_these_are_all_that_failed() -> None:
    assert len(CASES) == 35


@pytest.mark.fast
def test_unexpected_error_is_no_end_of_an_input() -> None:
    """The words stand in one place, for mistakes of our own; every generated input is held against them."""
    package = bases.ROOT / "spherectl"
    places = [path.relative_to(package) for path in package.rglob("*.py") if "Unexpected error" in path.read_text()]
    assert len(places) == 1, places
    assert places[0].parent == Path("cli")
