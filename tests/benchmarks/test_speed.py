"""`make bench` on a tiny model: what it writes, what in it must be exact, and that the page says what the JSON says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.page import page
from benchmarks.speed import difference
from benchmarks.timing import Case, call_case, counting, peak_memory_mb, time_in_turns
from spherectl.model.attention import attention

ROOT = Path(__file__).resolve().parents[2]
HEADS = {"what", "precision", "images"}


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, make_cli: Any, fashion_excerpt: Path
) -> tuple[dict[str, Any], str, str]:
    """The JSON, the page and what was said on stderr."""
    folder = tmp_path_factory.mktemp("speed")
    cli = make_cli(folder)
    trained = cli("train", "debug", "--data", fashion_excerpt, "--run", folder / "tiny")
    assert trained.returncode == 0, trained.stderr
    options = ["--model", folder / "tiny", "--recipe", "debug", "--seconds", "1", "--out", folder / "docs"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *map(str, options)],
        cwd=ROOT,
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == folder / "docs" / "performance.md"
    text = (folder / "docs" / "performance.json").read_text(encoding="utf-8")
    return json.loads(text), (folder / "docs" / "performance.md").read_text(encoding="utf-8"), done.stderr


@pytest.mark.slow
def test_every_case_is_measured(written: tuple[dict[str, Any], str, str]) -> None:
    results, _, told = written
    draws = [(what, images) for what in ("draw, 1 step", "draw, 4 guided steps") for images in (1, 8, 64)]
    steps = [("training step", 8), ("training step, no perceptual part", 8)]
    each = [*draws, ("encode", 64), ("reconstruct", 64), *steps]
    wanted = {(what, precision, images) for what, images in each for precision in ("float32", "bfloat16")}
    assert {tuple(case[key] for key in ("what", "precision", "images")) for case in results["cases"]} == wanted
    assert len(results["cases"]) == len(wanted)
    assert [row["unit"] for row in results["peaks"]] == ["GFLOP/s", "GFLOP/s", "GB/s"]
    for case in results["cases"]:
        assert 0 < case["lowest_ms"] <= case["ms"] <= case["highest_ms"]
        assert case["images_per_s"] == pytest.approx(1000 * case["images"] / case["ms"], rel=0.02)
        assert 0 < case["percent_of_peak"] < 100
    assert results["rounds"] == 2 == told.count("round ")
    assert (results["model"], results["parameters"]) == ("tiny", 153_275)
    assert {"processor", "flags", "cores", "threads"} <= results["machine"].keys()
    assert "torch" in results["versions"]


@pytest.mark.slow
def test_products_grow_with_the_images_and_not_with_the_precision(written: tuple[dict[str, Any], str, str]) -> None:
    gflop = {(case["what"], case["precision"], case["images"]): case["gflop"] for case in written[0]["cases"]}
    for (what, precision, images), value in gflop.items():
        assert value == pytest.approx(gflop[what, "float32", images], rel=0.02), (what, precision)
        if what.startswith("draw"):
            assert value == pytest.approx(images * gflop[what, precision, 1], rel=0.02)
    # Four guided steps are four passes of D and three of E, each twice; a reconstruction is one of each.
    both = gflop["reconstruct", "float32", 64]
    decode, encode = gflop["draw, 1 step", "float32", 64], gflop["encode", "float32", 64]
    assert both == pytest.approx(decode + encode, rel=0.02)
    assert gflop["draw, 4 guided steps", "float32", 64] == pytest.approx(8 * decode + 6 * encode, rel=0.02)


@pytest.mark.slow
def test_in_float32_the_batch_changes_nothing(written: tuple[dict[str, Any], str, str]) -> None:
    float32, *_, precisions = written[0]["differences"]
    assert float32 == {
        "compared": "float32, 64 together and one by one",
        "bytes_differ_percent": 0.0,
        "largest_difference_levels": 0,
        "psnr_db": None,
    }
    assert precisions["compared"].startswith("bfloat16 and float32")
    assert precisions["bytes_differ_percent"] > 0
    assert 20 < precisions["psnr_db"] < 120


@pytest.mark.slow
def test_the_page_holds_the_numbers_of_the_json(written: tuple[dict[str, Any], str, str]) -> None:
    results, text, _ = written
    assert text == page(results)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    on_page = [row for row in rows if not row[-1].startswith("-:") and "--" not in row[0]]
    in_json = [row for key in ("peaks", "cases", "differences", "chunks") for row in results[key]]
    numbers = [[number(cell) for cell in row] for row in on_page if any(number(cell) is not None for cell in row)]
    assert numbers == [[value if not isinstance(value, str) else None for value in row.values()] for row in in_json]
    assert all(len(line) <= 120 for line in text.splitlines() if line[:1] not in ("|", " ", "-"))


def number(cell: str) -> float | None:
    """The number in a cell of the page; None for words and for "-"."""
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return None


@pytest.mark.fast
def test_attention_is_counted() -> None:
    """Against its own definition: q k^T and the weighted sum, 2 N N K each, in B H pairs."""
    q = torch.rand(2, 16, 3, 8)  # (B, N, H, K)
    with counting() as counter:
        attention(q, q, q, "sdpa")
    assert counter.get_total_flops() == 2 * (2 * 16 * 16 * 8) * (2 * 3)


@pytest.mark.fast
def test_a_difference_is_of_levels_and_of_the_middle_picture() -> None:
    a = torch.full((4, 3, 2, 2), 0.5)
    b = a.clone()
    b[0, 0, 0, 0] += 3 / 255  # one byte of 48
    assert difference(a, a) == {"bytes_differ_percent": 0, "largest_difference_levels": 0, "psnr_db": None}
    assert difference(a, b) == {"bytes_differ_percent": 2.08, "largest_difference_levels": 3, "psnr_db": None}
    assert difference(a, a + 0.1)["psnr_db"] == pytest.approx(20)


@pytest.mark.fast
def test_cases_are_timed_in_turns_to_the_end_of_the_time() -> None:
    order: list[str] = []
    cases = [Case(name, "", 0, lambda name=name: order.append(name) or 1.0, 0, None) for name in "abc"]
    assert time_in_turns(cases, until=0) == 2  # at least, however late it is
    assert order == list("abcabc")
    assert [case.median_s for case in cases] == [1.0, 1.0, 1.0]


@pytest.mark.fast
def test_short_calls_are_repeated_and_long_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("benchmarks.timing.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def measured(seconds: float) -> tuple[float, int]:
        calls = []
        case = call_case("", "", 0, lambda: (calls.append(1), clock.__setitem__(0, clock[0] + seconds)))
        before = len(calls)
        return case.turn(), len(calls) - before

    assert measured(0.5) == (pytest.approx(0.5), 1)
    assert measured(0.008) == (pytest.approx(0.008), 3)


@pytest.mark.fast
def test_memory_is_what_a_call_needs_at_its_worst() -> None:
    if peak_memory_mb(lambda: None) is None:
        pytest.skip("this system does not tell a process's peak")
    kept: list[torch.Tensor] = []
    assert peak_memory_mb(lambda: [torch.ones(5_000_000) for _ in range(3)]) == pytest.approx(60, abs=5)
    assert peak_memory_mb(lambda: torch.ones(10_000_000).sum()) == pytest.approx(40, abs=5)
    assert peak_memory_mb(lambda: kept.append(torch.ones(20_000_000))) == pytest.approx(80, abs=5)
    assert peak_memory_mb(kept[0].sum) == pytest.approx(0, abs=5)
