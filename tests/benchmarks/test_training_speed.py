"""What a comparison of two trees makes of the metrics of their runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.training_speed import compare, costs, earlier_tree, git, images_per_s
from spherectl.errors import UsageError

BATCH = 10


def run_of(steps: int, *, usual: float, during: float, pause: float, waited: float) -> list[dict[str, float]]:
    """Metrics of steps of `usual` seconds; after every fifth a save's pause and one step of `during` seconds."""
    lines, wall = [], 0.0
    for step in range(1, steps + 1):
        after_save = step > 1 and (step - 1) % 5 == 0
        step_s = during if after_save else usual
        wall += step_s + (pause if after_save else 0.0)
        lines.append({"step": step, "wall_s": wall, "images_per_s": BATCH / step_s, "data_wait_s": waited * step_s})
    return lines


@pytest.mark.fast
def test_rate_counts_all_that_lies_between_the_steps() -> None:
    lines = run_of(15, usual=1.0, during=1.5, pause=0.5, waited=0.0)
    assert images_per_s(lines, BATCH) == pytest.approx(BATCH * 10 / (8 * 1.0 + 2 * 2.0))  # steps 6 and 11 follow saves


@pytest.mark.fast
def test_costs_are_in_usual_steps() -> None:
    runs = [run_of(15, usual=2.0, during=3.0, pause=0.5, waited=0.1) for _ in range(2)]
    found = costs(runs, BATCH)
    assert found["data_wait_share"] == pytest.approx(0.1)
    assert found["pause_after_save"] == pytest.approx(0.25)
    assert found["step_after_save"] == pytest.approx(1.5)


@pytest.mark.fast
def test_too_short_a_run_and_an_unknown_commit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 10 steps and 1 round; got 6 and 1"):
        compare(Namespace(steps=6, rounds=1), tmp_path, tmp_path)
    with (
        pytest.raises(UsageError, match=r"Cannot check out no-such-commit: fatal"),
        earlier_tree("no-such-commit", tmp_path),
    ):
        pass


@pytest.mark.slow
def test_both_trees_train_in_turn(tmp_path: Path, fashion_excerpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier tree is today's, so that the ratio is near 1; how near, a busy machine decides."""
    if git("rev-parse", "HEAD").returncode:
        pytest.skip("not a git checkout")
    monkeypatch.setattr("sys.argv", ["training_speed", "--against", "HEAD"])
    given = Namespace(against="HEAD", recipe="debug", steps=10, rounds=1, data=fashion_excerpt)
    with earlier_tree("HEAD", tmp_path) as tree:
        assert (tree / "spherectl").is_dir()
        found = compare(given, tree, tmp_path)
    assert not tree.exists()
    assert found["images_per_s"] > 0
    assert found["lowest_ratio"] == found["ratio"] == found["highest_ratio"] > 0
    assert 0 <= found["data_wait_share"] < 1
    assert found["command"] == "python -m benchmarks.training_speed --against HEAD"
