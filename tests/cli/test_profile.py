"""`spherectl sample --profile`: what took how long, and nothing else that changes."""

from __future__ import annotations

import contextlib
import json
import re
import time
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
def test_the_stages_are_told_on_stderr(command, run_here, out):
    result = command(*DRAW, "--profile", "--out", out)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.stderr
    told = table(result.stderr)
    assert list(told) == [*STAGES.values(), "total"]
    total, share = told.pop("total")
    assert share == 100
    assert sum(seconds for seconds, _ in told.values()) == pytest.approx(total, abs=1e-3 * len(told))
    assert sum(share for _, share in told.values()) == pytest.approx(100, abs=len(told))


@pytest.mark.fast
def test_the_same_seconds_are_in_json(command, run_here):
    result = command(*DRAW, "--profile", "--json", "--out", "grid.png")
    profile = json.loads(result.stdout)["profile"]
    told = {name: seconds for name, (seconds, _) in table(result.stderr).items()}
    assert list(profile) == [*STAGES, "total"]
    assert list(profile.values()) == pytest.approx(list(told.values()), abs=1e-3)
    assert min(profile.values()) >= 0
    assert min(profile[stage] for stage in ("startup", "model", "noise", "encoder", "decoder")) > 0
    assert sum(profile[stage] for stage in STAGES) == pytest.approx(profile["total"], abs=1e-3)


@pytest.mark.fast
def test_without_it_nothing_is_told_and_the_files_are_the_same(command, run_here, work):
    plain, profiled = (command(*DRAW, "--out", f"{n}.png", *more) for n, more in enumerate(((), ("--profile",))))
    assert table(plain.stderr) == {}
    assert profiled.stderr.startswith(plain.stderr)
    assert plain.stdout.replace("0.png", "1.png") == profiled.stdout
    assert (work / "0.png").read_bytes() == (work / "1.png").read_bytes()
    assert "profile" not in json.loads(command(*DRAW, "--json", "--out", "2.png").stdout)


@pytest.mark.fast
def test_a_image_made_again_has_no_profile(command, run_here, fails):
    command(*DRAW, "--out", "grid.png")
    fails(command("sample", "--like", "grid.png", "--profile"), 2, "leave out --profile")


@pytest.mark.slow
def test_the_total_is_the_time_of_the_command(cli, tiny_run):
    """From the process's start to its last line; what is left is the interpreter's end."""
    began = time.perf_counter()
    done = cli("sample", "--model", tiny_run, "--count", 1, "--out", "grid.png", "--profile", "--json")
    elapsed = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert 0.5 * elapsed <= json.loads(done.stdout)["profile"]["total"] <= elapsed + 0.02


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
