"""Whether two trainings are alike: windows, their errors, and who is told what."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import reproduction
from experiments.reproduction import PARTS, compare, mean_and_error, windows
from spherectl import recipe as recipes
from spherectl.settings import packaged

pytestmark = pytest.mark.fast


def lines(images: int, batch: int = 64, shift: float = 0.0, seed: int = 0) -> list[dict[str, float]]:
    """Made-up metrics: a loss that falls, with noise."""
    noise = np.random.default_rng(seed)
    found = []
    for step in range(1, images // batch + 1):
        loss = 1 + shift + 0.1 * noise.standard_normal() - step * batch / 1e6
        found.append({"images_seen": step * batch, **dict.fromkeys(PARTS, float(loss))})
    return found


def folder(path: Path, metrics: list[dict[str, float]], recipe: str = "fashion-mnist") -> Path:
    path.mkdir()
    (path / "recipe.toml").write_text(recipes.load(packaged("recipes") / f"{recipe}.toml").to_toml())
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduction", *map(str, words)])
    reproduction.main()


def test_the_error_is_that_of_a_mean_about_a_line() -> None:
    noise = np.random.default_rng(0).standard_normal((400, 50))
    slope = np.linspace(0, 100, 50)
    means, errors = np.array([mean_and_error(row + slope) for row in noise]).T
    assert means.std() == pytest.approx(1 / np.sqrt(50), rel=0.1)
    assert errors.mean() == pytest.approx(1 / np.sqrt(50), rel=0.05)


def test_only_the_first_images_are_compared() -> None:
    assert windows(lines(9_984)) == []  # no whole window
    many = windows(lines(230_016))
    rows = compare(many, many[:5])
    assert [row["images"] for row in rows] == [10_000, 20_000, 30_000, 40_000, 50_000]
    assert {row["errors"] for row in rows} == {0}
    assert compare(many, many)[-1]["images"] == 200_000


def test_a_run_like_the_committed_one_is_told_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, metrics in (("a", lines(40_000)), ("b", lines(40_000, seed=1)), ("c", lines(40_000, shift=0.1))):
        folder(tmp_path / name, metrics)
    run(monkeypatch, tmp_path / "a", "--write", "--out", tmp_path)
    for name, said in (("a", "all of 4"), ("b", "all of 4"), ("c", "all but 4 of 4")):
        capsys.readouterr()
        run(monkeypatch, tmp_path / name, "--out", tmp_path)
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "images", "said"),
    [("emoji", 40_000, "is a training of emoji"), ("fashion-mnist", 6_400, "has not seen the first 10,000")],
)
def test_what_cannot_be_compared_is_told(
    recipe: str, images: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, folder(tmp_path / "a", lines(40_000)), "--write", "--out", tmp_path)
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch, folder(tmp_path / "b", lines(images), recipe), "--out", tmp_path)
