"""docs/performance.md, written whole from docs/performance.json: no number in it is typed by hand."""

from __future__ import annotations

from typing import Any

PAGE = """\
# Speed

Measured on {date} by

    {command}

with the model {model} ({parameters:,} parameters, SHA-256 {sha256:.12}...) on

{machine}
- versions: {versions}

The command writes this page from [performance.json](performance.json), which holds the same numbers. All cases were
timed in turn, {rounds} rounds of them in one process; first calls do not count. Shown are the median, the lowest and
the highest. A call that takes less than {turn_ms} ms is repeated for that long, and their mean counts once.

## What the machine can do

Products of two square matrices of side {matrix_side:,}; a copy of {copied_mb:,} MB, bytes read and bytes written.

{peaks}

## What spherectl does

"draw" is `spherectl.generate`, no files written; guided is guidance {guidance:g}. A training step is one of
`spherectl train {recipe}` with everything that belongs to it. GFLOP are the products of one call, "% of peak" their
speed as a share of the matrix product above in the same precision. Memory is what one call needs beyond what the
process holds before it; for training that is the whole run.

{cases}

## How far precision and batch change a picture

{images} pictures of four guided steps in eight bits. The PSNR is the median over pictures, before they are rounded.

{differences}

## What it would cost to keep batches apart in bfloat16

A bfloat16 picture may depend on how many are computed with it. If each were computed in a chunk of {chunk}, filled up
where there are fewer, it would not depend on --batch and --count (if the row of chunks above says 0). The price in
ms, for one picture and for {images}:

{chunks}
"""

# Heads of columns whose key does not say it well.
HEADS = {
    "lowest_ms": "lowest",
    "highest_ms": "highest",
    "images_per_s": "images/s",
    "gflop": "GFLOP",
    "percent_of_peak": "% of peak",
    "memory_mb": "memory, MB",
    "bytes_differ_percent": "% of bytes differ",
    "largest_difference_levels": "by at most, of 255",
    "psnr_db": "PSNR, dB",
    "one_ms": "one alone",
    "one_in_chunk_ms": "one in a chunk",
    "one_ratio": "ratio",
    "all_ms": "all together",
    "all_in_chunks_ms": "all in chunks",
    "all_ratio": "ratio",
}


def page(results: dict[str, Any]) -> str:
    """The page of the JSON's table."""
    facts = {key: value for key, value in results.items() if not isinstance(value, list | dict)}
    return PAGE.format(
        **facts,
        **results["method"],
        machine="\n".join(f"- {key.replace('_', ' ')}: {show(value)}" for key, value in results["machine"].items()),
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        **{key: table(results[key]) for key in ("peaks", "cases", "differences", "chunks")},
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as Markdown; the keys are the heads, numbers stand right."""
    heads = [HEADS.get(key, key.replace("_", " ")) for key in rows[0]]
    ruler = ["---" if isinstance(value, str) else "--:" for value in rows[0].values()]
    lines = [heads, ruler, *([show(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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
