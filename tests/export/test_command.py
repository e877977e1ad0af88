"""`spherectl export` of graphs; tests/cli/test_export.py has the formats that take no time."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from spherectl.cli.app import app

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("--format onnx --parts decoder --dtype float16", "garments-onnx/decoder.onnx"),
        ("--format pt2 --parts encoder --out programs", "programs/encoder.pt2"),
    ],
)
def test_a_part_is_written_where_it_is_said(
    model_file: Path, tmp_path: Path, monkeypatch, line: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})
    result = runner.invoke(app, ["export", "--model", str(model_file), *line.split()])
    assert (result.exit_code, result.stdout) == (0, f"{file}\n"), result.stderr
    assert f"{Path(file).name}: " in result.stderr
    assert " dB" in result.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".onnx", ".pt2", ".tmp")]
    assert written == [tmp_path / file]
