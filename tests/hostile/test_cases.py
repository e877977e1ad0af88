"""Inputs that failed once, each for a whole kind: how they end, and what their sentence says."""

from __future__ import annotations

import copy
import io
import json
import struct
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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the worker's memory is read as Linux tells it")

M = "m.safetensors"
SAMPLE = ("sample", "--model", M, "--count", "1", "--steps", "1", "--out", "o.png")

Ends = Callable[..., str]


@pytest.fixture
def ends(harness: Harness) -> Ends:
    """`ends(argv, files, code)` runs a command line, checks every promise and its exit code; what it said on stderr."""

    def run(argv: tuple[str, ...], files: dict[str, File], code: int, env: dict[str, str] | None = None) -> str:
        attempt = Attempt("case", argv, files, env or {}, wrong=True)
        assert harness.run(attempt) == [], attempt
        assert harness.code == code, harness.said
        return harness.said

    return run


def changed(**keys: Any) -> bytes:
    """The tiny model with other words in its header; `recipe__model__x` stands for a nested key."""
    header = copy.deepcopy(bases.header())
    for name, value in keys.items():
        *path, last = name.split("__")
        place = header
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return bases.model(header, bases.tensors())


# Headers of model files


@pytest.mark.parametrize("value", [7, True, [1] * 10, {"a": 1}])
@pytest.mark.fast
def test_class_names_of_another_type(ends: Ends, value: Any) -> None:
    assert "class_names" in ends(SAMPLE, {M: changed(class_names=value)}, 1)


@pytest.mark.fast
def test_a_format_that_is_true(ends: Ends) -> None:
    assert "format" in ends(SAMPLE, {M: changed(format=True)}, 1)


@pytest.mark.fast
def test_images_seen_that_is_text_leaves_no_index(ends: Ends) -> None:
    argv = ("zoo", "add", M, "--index", "zoo/index.toml", "--licence", "MIT")
    assert "images_seen" in ends(argv, {M: changed(images_seen="many")}, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 10**9), ("decoder_mixer_blocks", 10**6), ("in_context_tokens", 10**9), ("image_size", 8192)],
)
@pytest.mark.fast
def test_sizes_that_the_tensors_do_not_have(ends: Ends, key: str, value: int) -> None:
    ends(SAMPLE, {M: changed(**{f"recipe__model__{key}": value})}, 1)


@pytest.mark.fast
def test_a_number_of_steps_that_nobody_means(ends: Ends) -> None:
    argv = ("sample", "--model", M, "--count", "1", "--out", "o.png")
    assert "steps" in ends(argv, {M: changed(recipe__sample__steps=10**9)}, 1)


@pytest.mark.fast
def test_escapes_in_class_names_are_shown(ends: Ends) -> None:
    names = ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", *"cdefghij"]
    said = ends(("sample", "--model", M, "--class", "zzz", "--out", "o.png"), {M: changed(class_names=names)}, 2)
    assert "\\x1b" in said


# Tensors


@pytest.mark.fast
def test_escapes_in_names_of_tensors_are_shown(ends: Ends) -> None:
    tensors = {**bases.tensors(), "\x1b[31mevil": torch.zeros(1)}
    assert "\\x1b[31mevil" in ends(SAMPLE, {M: bases.model(bases.header(), tensors)}, 1)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
@pytest.mark.fast
def test_weights_of_a_type_that_no_model_has(ends: Ends, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in bases.tensors().items()}
    ends(SAMPLE, {M: bases.model(bases.header(), tensors)}, 1)


@pytest.mark.fast
def test_weights_that_are_no_numbers_are_named(ends: Ends) -> None:
    tensors = dict(bases.tensors())
    name = next(name for name in tensors if name.startswith("decoder.blocks.0") and tensors[name].ndim == 2)
    tensors[name] = tensors[name] * float("nan")
    assert name in ends(SAMPLE, {M: bases.model(bases.header(), tensors)}, 1)


# Published folders


@pytest.mark.parametrize(
    "content", [b"\x80\x02.", b"\x80\x02h\xff.", b"\x80\x05\x96" + struct.pack("<Q", 8 << 30) + b"."]
)
@pytest.mark.fast
def test_pickles_that_are_no_checkpoint(ends: Ends, content: bytes) -> None:
    files: dict[str, File] = {f"p/{name}": value for name, value in bases.published().items()}
    ends(("sample", "--model", "p", "--count", "1", "--out", "o.png"), files | {"p/ckpt/ep0007.pth": content}, 1)


@pytest.mark.fast
def test_a_million_blocks_are_refused_by_the_configuration_alone(ends: Ends) -> None:
    cfg = json.loads(bases.published()["cfg.json"]) | {"vit_enc_latent_mlp_mixer_depth": 10**6}
    ends(("sample", "--model", "p", "--count", "1", "--out", "o.png"), {"p/cfg.json": json.dumps(cfg).encode()}, 1)


@pytest.mark.fast
def test_a_checkpoint_that_is_a_pipe(ends: Ends) -> None:
    files: dict[str, File] = {"p/cfg.json": bases.published()["cfg.json"], "p/ckpt/ep0001.pth": fifo}
    assert "not a regular file" in ends(("sample", "--model", "p", "--out", "o.png"), files, 1)


# Images

EDIT = ("edit", "photo.png", "--reconstruct", "--model", M, "--out", "o.png")


@pytest.mark.fast
def test_postscript_under_another_name_starts_no_program(ends: Ends) -> None:
    files: dict[str, File] = {M: bases.tiny(), "photo.png": POSTSCRIPT, "bin/gs": executable(GS)}
    ends(EDIT, files, 1, {"PATH": "{work}/bin:/usr/bin:/bin"})


@pytest.mark.fast
def test_an_image_that_is_a_pipe(ends: Ends) -> None:
    assert "not a regular file" in ends(EDIT, {M: bases.tiny(), "photo.png": fifo}, 1)


@pytest.mark.slow
def test_177_megapixels_with_a_palette(ends: Ends) -> None:
    big = Image.new("P", (13300, 13300))
    big.putpalette(list(range(256)) * 3)
    written = io.BytesIO()
    big.save(written, "PNG", transparency=0, compress_level=1)
    ends(EDIT, {M: bases.tiny(), "photo.png": written.getvalue()}, 1)


@pytest.mark.parametrize("text", ["[" * 100_000, json.dumps({"format": 1, "chunk": 2**63})])
@pytest.mark.fast
def test_provenance_that_cannot_be_read(ends: Ends, text: str) -> None:
    ends(("sample", "--like", "like.png", "--out", "o.png"), {"like.png": bases.png_with(text)}, 1)


# Statistics, lists, recipes, settings


@pytest.mark.slow
def test_statistics_of_eight_gigabytes(ends: Ends) -> None:
    members = {"mu.npy": bases.npy_header((1 << 30,)), "sigma.npy": array_bytes(torch.eye(WIDTH).numpy())}
    content = bases.npz_of(members, {"mu.npy": 256 << 20})  # the rest is said to be there, and is not
    argv = ("evaluate", M, "--count", "64", "--steps", "1", "--reference", "huge.npz", "--data", str(bases.EXCERPT))
    ends((*argv, "--out", "report"), {M: bases.tiny(), "huge.npz": content}, 1)


@pytest.mark.fast
def test_a_list_whose_line_is_nested_without_end(ends: Ends) -> None:
    argv = ("train", "debug", "--data", "deep.jsonl", "--set", "data.kind=jsonl", "--dry-run")
    assert "line 1" in ends(argv, {"deep.jsonl": b'{"image_path": ' + b"[" * 50_000 + b"\n"}, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.image_size", "1" + "0" * 30),
        ("model.compression_ratio", "1e-300"),
        ("model.token_channels", "1" + "0" * 18),
        ("model.encoder_mixer_blocks", "1" + "0" * 9),
        ("model.size", "x" * 100_000),
    ],
)
@pytest.mark.fast
def test_numbers_of_a_recipe_out_of_range(ends: Ends, key: str, value: str) -> None:
    assert key in ends(("train", "debug", "--set", f"{key}={value}", "--dry-run"), {}, 2)


@pytest.mark.fast
def test_the_home_of_nobody(ends: Ends) -> None:
    assert "nouser" in ends(("sample", "--model", "~nouser/x.safetensors"), {}, 2)


@pytest.mark.fast
def test_a_pattern_that_is_none(ends: Ends) -> None:
    ends(("encode", "a**", "--model", M, "--out", "l.safetensors"), {M: bases.tiny()}, 2)


@pytest.mark.fast
def test_unexpected_error_is_no_end_of_an_input() -> None:
    """The words stand in one place, for mistakes of our own; every generated input is held against them."""
    package = bases.ROOT / "spherectl"
    places = [path.relative_to(package) for path in package.rglob("*.py") if "Unexpected error" in path.read_text()]
    assert len(places) == 1, places
    assert places[0].parent == Path("cli")
