"""What all figures share: which files they can be, how they look, how they are written."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.errors import UsageError
from spherectl.files import replacing
from spherectl.places import check_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

# Okabe and Ito's palette, which colour-blind people tell apart, without its yellow, which nobody sees on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.3,
    "savefig.dpi": 150,
    "svg.hashsalt": "spherectl",
    "text.parse_math": False,  # a run's name may hold dollars
}


def check_target(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse a figure's name before anything is read or plotted.

    Raises:
        UsageError: its suffix is none that can be written, the name is taken, or matplotlib is not installed.
        FileError: no file can be made there.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"Expected a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}, got {path}.")
    check_writable(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "Figures need the package matplotlib, which is not installed.",
            "Install it with spherectl's extra: pip install 'spherectl[plot]'.",
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, without the time."""
    kind = path.suffix.lower().removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=undated)
