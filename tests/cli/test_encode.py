"""Encoding many images takes the memory of a few."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from spherectl import api
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_tensors

IMAGES, BATCH, SIDE = 1000, 50, 200


def resident_mb() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read as Linux tells it")
def test_a_thousand_images_are_encoded_in_constant_memory(
    command: Callable[..., Result], work: Path, run_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held all at once, the images would take 120 MB."""
    levels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(levels).save("0000.bmp")
    Path("many").mkdir()
    for number in range(IMAGES):
        Path(f"many/{number:04d}.bmp").hardlink_to("0000.bmp")
    alive: set[weakref.ref[torch.Tensor]] = set()
    at_once: list[int] = []
    memory_mb: list[float] = []
    encode = api.Model.encode

    def watched(model: api.Model, images: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        latents = encode(model, images, classes)
        alive.update(weakref.ref(tensor, alive.discard) for tensor in (images, latents))
        at_once.append(len(alive))
        memory_mb.append(resident_mb())
        return latents

    monkeypatch.setattr(api.Model, "encode", watched)
    result = command("encode", "many", "--out", "l.safetensors", "--batch", BATCH, "--model", "runs/tiny")
    assert result.exit_code == 0, result.stderr
    assert len(at_once) == IMAGES // BATCH
    assert max(at_once) <= 4  # this batch, and at most the one before
    assert max(memory_mb[2:]) - memory_mb[1] < 20
    latents = read_tensors(Path("l.safetensors"))["latents"]
    assert len(latents) == len(read_header(Path("l.safetensors"))["files"]) == IMAGES
    assert (latents - latents[:1]).abs().max() < 1e-4


@pytest.mark.fast
def test_what_is_not_seen_of_many_images_is_said_once(
    command: Callable[..., Result], work: Path, run_here: Path
) -> None:
    Path("many").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (250, 40 * number, 3)).save(f"many/{number}.png")
    result = command("encode", "many", "--out", "l.safetensors", "--model", "fashion-mnist")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("its colours are left out") == 1
    assert "many/0.png: its colours are left out" in result.stderr
