"""The table of exports in docs/export.md: written between its marks, and as its numbers say."""

from __future__ import annotations

import pytest

from benchmarks import exports
from benchmarks.timing import Case, Group
from spherectl.errors import UsageError


def case(path: str, *seconds: float) -> Case:
    return Case(path, lambda: 0.0, 0.0, None, list(seconds))


@pytest.mark.fast
def test_rows_tell_medians_ratios_and_files() -> None:
    one = Group("m", "decoder", 8, [case(exports.TORCH, 0.2, 0.1, 0.4), case("ONNX Runtime, int8", 0.05)])
    torch_row, int8 = exports.rows_of(one, {("m", "decoder", "ONNX Runtime, int8"): {"mb": 2.5}})
    assert (torch_row["ms"], torch_row["lowest_ms"], torch_row["highest_ms"], torch_row["ratio"]) == (200, 100, 400, 1)
    assert (int8["ms"], int8["ratio"], int8["mb"]) == (50, 4, 2.5)
    assert "mb" not in torch_row


@pytest.mark.fast
def test_a_table_is_written_between_the_marks() -> None:
    place = {"processor": "a chip", "flags": ["avx2"], "cores": 2, "threads": 1, "load_before": 0.5}
    about = {"machine": place, "date": "2026-01-02", "visits": 9, "random": None}
    row = {"model": "m", "what": "decoder", "images": 1, "path": exports.TORCH, "ms": 1234.0, "ratio": 1.0}
    text = f"before\n{exports.BEGIN}old\n{exports.END}\nafter\n"
    new = exports.with_table(text, [row], about)
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "old" not in new
    assert "| m | decoder | 1 | torch, eager | - | - | 1,234 |" in new
    assert "2026-01-02, a chip (avx2), 2 cores, load 0.5 before; threads in use: 1; torch" in new
    with pytest.raises(UsageError, match="once each"):
        exports.with_table("no marks", [row], about)
