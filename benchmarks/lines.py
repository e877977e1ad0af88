"""Files of one JSON table a line, as trainings write their metrics."""

from __future__ import annotations

import json
from pathlib import Path

from spherectl.errors import FileError


def read_lines(path: Path) -> list[dict[str, float]]:
    """The lines of a file, but for one that a killed process cut short and the next one went on behind.

    Raises:
        FileError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror or error}.") from None
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
