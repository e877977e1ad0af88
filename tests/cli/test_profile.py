"""`spherectl sample --profile`: what took how long, and nothing else that changes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from spherectl import api
from spherectl.cli.sample import STAGES
from spherectl.timing import Stopwatch

DRAW = ("sample", "--count", 5, "--steps", 3, "--batch", 2, "--seed", 1)


def table(stderr: str) -> dict[str, tuple[float, int]]:
    """Seconds and percent by stage."""
    rows = re.findall(r"^(\S.*?) +(\d+\.\d{3}) +(\d+)%$", stderr, re.MULTILINE)
    return {name: (float(seconds), int(share)) for name, seconds, share in rows}


@pytest.mark.fast
@pytest.mark.parametrize("out", ["grid.png", "folder", "arrays.npz"])
def test_the_stages_are_told_on_stderr_and_in_json(command, run_here, out):
    result = command(*DRAW, "--profile", "--json", "--out", out)
    assert result.exit_code == 0, result.stderr
    told = table(result.stderr)
    profile = json.loads(result.stdout)["profile"]
    assert list(profile) == [*STAGES, "total"]
    assert list(told) == [*STAGES.values(), "total"]
    assert list(profile.values()) == pytest.approx([seconds for seconds, _ in told.values()], abs=1e-3)
    assert min(profile[stage] for stage in ("startup", "model", "noise", "encoder", "decoder")) > 0
    assert min(profile.values()) >= 0
    assert sum(profile[stage] for stage in STAGES) == pytest.approx(profile["total"], abs=1e-3)
    assert told.pop("total")[1] == 100
    assert sum(share for _, share in told.values()) == pytest.approx(100, abs=len(told))


@pytest.mark.fast
def test_without_it_nothing_is_told_and_the_file_is_the_same(command, run_here, work):
    plain, profiled = (command(*DRAW, "--out", f"{n}.png", *more) for n, more in enumerate(((), ("--profile",))))
    assert table(plain.stderr) == {}
    assert profiled.stderr.splitlines()[:2] == plain.stderr.splitlines()[:2]  # the model and its settings
    assert plain.stdout.replace("0.png", "1.png") == profiled.stdout
    assert (work / "0.png").read_bytes() == (work / "1.png").read_bytes()


class Noted(Stopwatch):
    """Remembers the stages in the order they began."""

    def __init__(self) -> None:
        super().__init__("rest")
        self.began: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.began.append(name)
        with super().stage(name):
            yield


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"steps": 1}, "noise decoder"),
        ({"steps": 3}, "noise decoder encoder noise decoder encoder decoder"),
        ({"steps": 3, "noise": "fresh"}, "noise decoder encoder noise decoder encoder noise decoder"),
    ],
)
def test_drawing_counts_its_own_stages(tiny_run, settings: dict[str, Any], stages):
    """In the method's order: shared noise is sampled once; and the images are those of an unwatched model."""
    model = api.load(tiny_run, device="cpu", dtype="float32")
    (expected,) = api.generate(model, 2, guidance=1.0, **settings)
    model.watch = Noted()
    (watched,) = api.generate(model, 2, guidance=1.0, **settings)
    assert model.watch.began == stages.split()
    assert torch.equal(watched.images, expected.images)
