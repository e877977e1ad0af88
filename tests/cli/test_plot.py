"""`spherectl plot training`: what it takes, what it writes, what it says when it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none"], 2, ["There is no run folder 'none'.", "Those in runs: tiny."]),
        (["tiny", "runs"], 1, ["runs has no metrics yet."]),
        (["tiny", "--out", "a.jpg"], 2, ["ends in .png, .svg or .pdf, got a.jpg."]),
        (["tiny", "--out", "file/a.png"], 2, ["Cannot write file/a.png"]),
    ],
)
def test_mistakes_are_a_sentence(
    command: Command,
    fails: Callable[..., str],
    run_here: Path,
    work: Path,
    files: Callable[[], list[str]],
    arguments: list[str],
    code: int,
    said: list[str],
) -> None:
    (work / "file").write_text("in the way")
    fails(command("plot", "training", *arguments), code, *said)
    assert files() == ["file"]


@pytest.mark.slow
def test_it_needs_neither_torch_nor_a_display(cli: Any, run_here: Path) -> None:
    """In a new process: the forks of the other tests have torch loaded."""
    code = (
        "import sys\nfrom spherectl.cli.app import app\n"
        "try: app(['plot', 'training', 'tiny'])\nexcept SystemExit as ended: assert ended.code == 0\n"
        "print(sorted({'torch', 'matplotlib.pyplot', 'tkinter', 'pooch'} & set(sys.modules)))"
    )
    environment = {key: value for key, value in cli.environment({"MPLBACKEND": "TkAgg"}).items() if key != "DISPLAY"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "training.png\n[]\n"


@pytest.fixture
def run_here(work: Path) -> Path:
    """runs/tiny, with so few keys in its metrics that a figure is plotted quickly."""
    folder = work / "runs" / "tiny"
    folder.mkdir(parents=True)
    lines = [{"step": step, "images_seen": 8 * step, "wall_s": step, "loss": 1 / step} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.mark.fast
def test_a_run_becomes_an_image_of_a_name_of_its_own_or_replaces_a_named_file(
    command: Command, run_here: Path, work: Path, files: Callable[[], list[str]]
) -> None:
    (work / "training.png").write_text("mine")
    result = command("plot", "training", "runs/tiny")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "training-1.png\n", "")
    with Image.open("training-1.png") as image:
        image.load()
    assert (work / "training.png").read_text() == "mine"
    shutil.copytree(run_here, work / "runs" / "other")
    (work / "a.svg").write_text("old")
    result = command("plot", "training", "tiny", run_here.parent / "other", "--x", "hours", "--out", "a.svg")
    assert (result.exit_code, result.stdout) == (0, "a.svg\n")
    assert (work / "a.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert files() == ["a.svg", "training-1.png", "training.png"]


@pytest.mark.fast
def test_options_reach_the_figure(command: Command, run_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spherectl.plots import training as plots

    asked: list[Any] = []
    monkeypatch.setattr(plots, "plot_training", lambda runs, path, **named: asked.append((len(runs), path, named)))
    assert command("plot", "training", "tiny", "--x", "steps", "--smooth", 7, "--out", "b.pdf").exit_code == 0
    assert command("plot", "training", "tiny", "tiny").exit_code == 0
    assert asked == [
        (1, Path("b.pdf"), {"x": "steps", "smooth": 7}),
        (2, Path("training.png"), {"x": "images", "smooth": None}),
    ]
