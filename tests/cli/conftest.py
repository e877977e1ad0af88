"""The command line in this process, in a folder of its own: quick, where a process of its own would show no more."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from spherectl.cli.app import app
from spherectl.data.datasets import open_dataset
from spherectl.recipe import DataSpec
from spherectl.settings import packaged
from spherectl.zoo import catalogue


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, empty; `--threads` holds until the end of the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def command(work: Path) -> Callable[..., Result]:
    """`command("sample", "--steps", 1)`: the result has exit_code, stdout and stderr."""
    runner = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})

    def run(*arguments: str | int | Path) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def run_here(work: Path, tiny_run: Path) -> Path:
    """The tiny run as runs/tiny of the working folder."""
    return Path(shutil.copytree(tiny_run, work / "runs" / "tiny"))


@pytest.fixture
def garments(work: Path, fashion_excerpt: Path) -> torch.Tensor:
    """a.png to d.png, 28 px, in the working folder; (4, 3, 32, 32) bytes as the model sees them."""
    data = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")
    pixels = open_dataset(data, 32, split="test", root=fashion_excerpt).gather(torch.tensor([3, 25, 50, 75]))
    for name, one in zip("abcd", pixels, strict=True):
        Image.fromarray(one[:, 2:30, 2:30].permute(1, 2, 0).numpy()).save(f"{name}.png")
    return pixels


@pytest.fixture
def files(work: Path) -> Callable[[], list[str]]:
    """`files()`: what lies in the working folder, besides runs; hidden and temporary files too."""

    def listed() -> list[str]:
        found = (path.relative_to(work) for path in work.rglob("*"))
        return sorted(str(path) for path in found if path.parts[0] != "runs")

    return listed


@pytest.fixture
def fails() -> Callable[..., str]:
    """`fails(result, 2, "words")`: a command ended by one sentence, its code, its words; returns the sentence."""

    def check(result: Result, code: int, *said: str) -> str:
        assert result.exit_code == code, result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, result.stderr
        for words in said:
            assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert "Unexpected error" not in result.stderr
        assert result.stdout == ""
        return errors[0]

    return check


@pytest.fixture(scope="session")
def pixels() -> Callable[[Path], np.ndarray]:
    """`pixels(path)`: an image file as uint8 (H, W, 3)."""

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    return read


@pytest.fixture
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Path:
    """The zoo of a fresh installation, but for its embedded model, which is the tiny run's."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(tiny_run / "model.safetensors", folder / "fashion-mnist.safetensors")
    table = tomllib.loads((packaged("zoo") / "index.toml").read_text(encoding="utf-8"))
    for entry in table["entry"]:
        for key in ("bytes", "sha256", "scores"):
            entry.pop(key, None)
    (folder / "index.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    monkeypatch.setattr(catalogue, "packaged", lambda _name: folder)
    return folder
