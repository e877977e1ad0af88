"""`spherectl export`: what it writes and says, and the mistakes people make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import spherectl

Command = Callable[..., Result]


@pytest.mark.fast
def test_a_run_becomes_a_smaller_model_file_of_a_name_of_its_own(command: Command, run_here: Path, files) -> None:
    for name in ("tiny-float16.safetensors", "tiny-float16-1.safetensors"):
        result = command("export", "--format", "safetensors", "--dtype", "float16")
        assert (result.exit_code, result.stdout) == (0, f"{name}\n")
        assert "newest run" in result.stderr
        assert "largest difference" in result.stderr
    assert files() == ["tiny-float16-1.safetensors", "tiny-float16.safetensors"]
    assert (run_here.parents[1] / name).stat().st_size < 0.6 * (run_here / "model.safetensors").stat().st_size
    assert spherectl.load(name, device="cpu", dtype="float32").name == "tiny-float16-1"


@pytest.mark.fast
def test_published_into_a_named_folder_twice(command: Command, run_here: Path, files: Callable[[], list[str]]) -> None:
    for _ in range(2):
        result = command("export", "--format", "published", "--out", "theirs", "--json")
        assert result.exit_code == 0
        (row,) = json.loads(result.stdout)
        assert row["path"] == "theirs/ckpt/ep0000.pth"
        assert row["difference"]["max_difference"] == 0
    assert files() == ["theirs", "theirs/cfg.json", "theirs/ckpt", "theirs/ckpt/ep0000.pth"]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--format gguf", "'gguf' is not one of"),
        ("--format pt2 --dtype int8", "--dtype int8: --format pt2 is written in float32."),
        ("--format web --out page.onnx", "--format web writes several files into a folder; got page.onnx."),
        ("--format onnx --parts decoder,foo", "'foo' is none of decoder, encoder, round."),
        ("--format safetensors --out x", "is one file whose name ends in .safetensors; got x."),
        ("--format safetensors --weights raw --model fashion-mnist", "averaged (EMA) weights only"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(command: Command, files, fails, line: str, said: str) -> None:
    fails(command("export", *line.split()), 2, said)
    assert files() == []


@pytest.mark.fast
def test_a_missing_package_is_said_before_the_model_is_loaded(command: Command, files, monkeypatch) -> None:
    from spherectl.export import onnx

    monkeypatch.setattr(onnx, "PACKAGES", ("no_such_package",))
    result = command("export", "--format", "onnx")
    assert result.exit_code == 2
    assert "ONNX needs no_such_package, which is not installed." in result.stderr
    assert "pip install 'spherectl[export]'" in result.stderr
    assert files() == []
