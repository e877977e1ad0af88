"""`spherectl train cifar10` with its own loss: networks put where a sentence says, the first step in closed form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pytest
import torch
from torch import nn

from spherectl.features.imagenet import Source
from tests.published import resized


def write_cifar10(folder: Path, image: np.ndarray) -> None:
    """CIFAR-10's binary version, of one image (3, 32, 32) under six labels."""
    folder.mkdir()
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for label, name in enumerate(names):
        (folder / name).write_bytes(bytes([label]) + image.tobytes())


@pytest.mark.slow
def test_the_papers_loss_through_the_command_line_without_a_network(
    command: Callable[..., Any],
    fails: Callable[..., str],
    work: Path,
    tmp_path: Path,
    served: tuple[Source, Source],
    vgg16_file: Path,
    convnext_file: Path,
    lpips_module: lpips.LPIPS,
    convnext: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each missing file is named with its address and its place; put there, it is taken.

    The first step has a closed form: at the start values the decoder draws grey, whatever the point. All images are
    one and equal to its mirror image, so neither order nor flips matter.
    """
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPHERECTL_CACHE", str(cache))
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    half = np.random.default_rng(0).integers(0, 256, (3, 32, 16), dtype=np.uint8)
    image = np.concatenate([half, half[..., ::-1]], axis=-1)
    write_cifar10(work / "cifar-10-batches-bin", image)
    arguments = ["train", "cifar10", "--data", work, "--set", "model.size=nano", "--set", "run.dtype=float32"]
    arguments += ["--set", "run.batch_size=3", "--set", "run.length_epochs=0.6"]  # one step

    for source, file in zip(served, (vgg16_file, convnext_file), strict=True):
        place = cache / "torchvision" / file.name
        fails(command(*arguments), 1, f"{place} is missing", f"download {source.url} and put it at {place}")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    result = command(*arguments)
    assert result.exit_code == 0, result.stderr

    (line,) = (json.loads(text) for text in (work / "runs" / "cifar10" / "metrics.jsonl").read_text().splitlines())
    pixels = torch.from_numpy(image)[None] / 255
    grey = torch.full_like(pixels, 0.5)
    with torch.no_grad():
        logits = (convnext(resized(grey)) - convnext(resized(pixels))).square().mean()
        distance = (lpips_module(2 * grey - 1, 2 * pixels - 1).mean() + 0.1 * logits) / 1.1
    assert line["loss_rec_perc"] == pytest.approx(distance.item(), rel=1e-5)
    assert line["loss_rec"] == pytest.approx(0.5 * (pixels - 0.5).square().mean().item(), rel=1e-5)
    assert (line["loss_con"], line["loss_con_perc"]) == (0, 0)  # the far image is the near one
    assert line["loss_lat"] == pytest.approx(0.1)  # of a latent of zeros: its cosine counts as 0
    assert line["grad_norm"] > 0
