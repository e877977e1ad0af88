"""The tables of docs/performance.md: their columns, and how a value is written."""

from __future__ import annotations

from typing import Any

from spherectl.errors import UsageError

Row = dict[str, Any]
Columns = dict[str, str]  # key of a row to the head of its column

TIMES = {
    "path": "path",
    "ms": "ms",
    "lowest_ms": "lowest",
    "highest_ms": "highest",
    "images_per_s": "images/s",
    "gflop": "GFLOP",
    "percent_of_peak": "% of peak",
    "memory_mb": "memory, MB",
    "ratio": "ratio",
}
DRAWN: Columns = {"what": "samples", "images": "images", **TIMES}
STEPPED: Columns = {"what": "what", "images": "images", **TIMES, "ratio_to_plain_bfloat16": "to plain bfloat16"}
PEAKS: Columns = {
    "what": "what",
    "precision": "precision",
    "unit": "unit",
    "median": "median",
    "lowest": "lowest",
    "highest": "highest",
}
IMAGES: Columns = {
    "what": "samples",
    "path": "path",
    "median_psnr_db": "median PSNR, dB",
    "low_psnr_db": "1% quantile, dB",
    "largest_difference_levels": "at most, of 255",
    "frechet_float32": "Frechet, float32",
    "frechet": "Frechet, fast",
    "change_percent": "change, %",
    "interval_percent": "interval, ± %",
}
BYTES: Columns = {
    "path": "path",
    "bytes": "bytes",
    "bytes_that_differ": "differ",
    "largest_difference_levels": "at most, of 255",
}
GROWTH: Columns = {
    "value": "",
    "images": "images",
    "tokens": "tokens",
    "parameters": "parameters",
    "ms": "ms",
    "gflop": "GFLOP",
    "gflop_per_s": "GFLOP/s",
    "weights_mb": "weights, MB",
    "memory_mb": "memory, MB",
}
EQUALITY: Columns = {"path": "path", "mean_loss": "mean loss"}


def table(rows: list[Row], columns: Columns) -> str:
    """Rows as Markdown; a column of words stands left, one of numbers right."""
    words = [all(isinstance(row.get(key), str) for row in rows) for key in columns]
    ruler = ["---" if left else "--:" for left in words]
    lines = [list(columns.values()), ruler, *([show(row.get(key)) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def check_marks(text: str, begin: str, end: str) -> None:
    """Refuse a page without the two marks.

    Raises:
        UsageError: the page has not each mark once.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UsageError(f"Expected the marks {begin.strip()} and {end} in the page, once each.")


def put_between(text: str, begin: str, end: str, body: str) -> str:
    """A page's text with this body between its marks; raises as `check_marks` does."""
    check_marks(text, begin, end)
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{body}{end}{rest.partition(end)[2]}"


def counted(count: int, noun: str) -> str:
    """So many things in words, as in "1 round" and "2 rounds"."""
    return f"{count} {noun}{'s' * (count > 1)}"


def show(value: Any) -> str:
    """A value as it stands in the JSON, but for commas in thousands: 12,300."""
    match value:
        case None:
            return "-"
        case list():
            return ", ".join(value) or "none"
        case float() if value.is_integer():
            return f"{value:,.0f}"
        case float() | int():
            return f"{value:,}"
    return str(value)
