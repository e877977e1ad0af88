"""What a model file says of itself, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spherectl.errors import FileError


def read_header(path: Path) -> dict[str, Any]:
    """The `spherectl` header of a model or feature file, read without torch; its tensors are not looked at.

    Raises:
        FileError: it is not a safetensors file, or has no such header.
    """
    try:
        with path.open("rb") as file:
            # A damaged length must not ask for more memory than the file has bytes.
            length = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
            metadata = json.loads(file.read(length)).get("__metadata__", {})
        header = json.loads(metadata["spherectl"])
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise FileError(
            f"{path} is not a model file: it has no spherectl header.", "Fetch it or copy it again."
        ) from None
    return dict(header)
