"""The layouts of published checkpoints: one record each, which everything else looks up.

Finding, fetching and loading a model, `export --format` and their messages take what `LAYOUTS` holds. A record says how
a layout looks on disk. The module that it names reads and writes it, and is imported when it is needed, for its torch.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spherectl.errors import FileError
from spherectl.files import is_folder, is_regular
from spherectl.shown import quoted


@dataclass(frozen=True)
class Layout:
    """A folder with one file of settings and numbered checkpoints, of which the last counts.

    Attributes:
        name: in `export --format`, and the kind of a model that `zoo.find_model` finds.
        title: what messages call such a folder.
        config: the file of settings, as a path below the folder.
        checkpoint: a checkpoint, as a path below the folder; #### stands for its number.
        code: module with `read(folder) -> Package`, `write(folder, package)` and `describe(folder, facts)`, which puts
            a table into a written folder where readers ignore it.
        readers: who reads it, for the help of `export`.
    """

    name: str
    title: str
    config: str
    checkpoint: str
    code: str
    readers: str

    @property
    def _pattern(self) -> str:
        return re.escape(self.checkpoint).replace(re.escape("####"), "([0-9]{1,12})")

    @property
    def files(self) -> str:
        """Its two files, for messages."""
        return f"{self.config} and {self.checkpoint}"

    @property
    def contents(self) -> str:
        """What to look for in a folder, for messages."""
        inner = Path(self.checkpoint).parent.as_posix()
        return f"{self.config} and {self.checkpoint if inner == '.' else f'{inner}/'}"

    def has(self, path: str) -> bool:
        """Whether a path below the folder is one of this layout's files."""
        return path == self.config or self.number(path) is not None

    def number(self, path: str) -> int | None:
        """The number of a checkpoint, given as a path below the folder; None if it is none."""
        match = re.fullmatch(self._pattern, path)
        return int(match[1]) if match else None

    def is_at(self, folder: Path) -> bool:
        """Whether a folder looks like one of this layout, with or without a checkpoint."""
        return is_regular(folder / self.config) and is_folder((folder / self.checkpoint).parent)

    def checkpoints(self, folder: Path) -> list[Path]:
        """The checkpoints in a folder, by number."""
        place = (folder / self.checkpoint).parent
        found = [(self.number(path.relative_to(folder).as_posix()), path) for path in place.glob("*")]
        return [path for _, path in sorted((number, path) for number, path in found if number is not None)]

    def newest(self, folder: Path) -> Path:
        """The checkpoint with the highest number.

        Raises:
            FileError: there is none.
        """
        found = self.checkpoints(folder)
        if not found:
            raise FileError(f"{folder} has a {self.config} but no checkpoint {self.checkpoint}.")
        return found[-1]

    def models(self, files: Collection[str]) -> dict[str, tuple[str, str]]:
        """The file of settings and the newest checkpoint of each model in a list of paths, by its folder."""
        newest: dict[str, tuple[int, str]] = {}
        for path in files:
            if match := re.fullmatch(f"(?:(.*)/)?{self._pattern}", path):
                folder = match[1] or ""
                newest[folder] = max(newest.get(folder, (-1, "")), (int(match[2]), path))
        settings = {folder: f"{folder}/{self.config}" if folder else self.config for folder in newest}
        return {folder: (path, newest[folder][1]) for folder, path in settings.items() if path in files}

    def read(self, folder: Path) -> Any:
        """The `Package` in a folder of this layout."""
        return importlib.import_module(self.code).read(folder)

    def write(self, folder: Path, package: Any) -> None:
        """Write a `Package` as a folder of this layout."""
        importlib.import_module(self.code).write(folder, package)

    def describe(self, folder: Path, facts: dict[str, Any]) -> None:
        """Put a table into a written folder, where the layout's readers ignore it."""
        importlib.import_module(self.code).describe(folder, facts)


PUBLISHED = Layout(
    name="published",
    title="published checkpoint",
    config="cfg.json",
    checkpoint="ckpt/ep####.pth",
    code="spherectl.model.formats.published",
    readers="the authors' code",
)
LAYOUTS = [PUBLISHED]


def layout_at(folder: Path) -> Layout | None:
    """The layout that a folder looks like."""
    return next((layout for layout in LAYOUTS if layout.is_at(folder)), None)


def is_whole(folder: Path) -> bool:
    """Whether a folder has a checkpoint of one of the layouts, and its settings."""
    layout = layout_at(folder)
    return layout is not None and bool(layout.checkpoints(folder))


def is_model(files: Collection[str]) -> bool:
    """Whether paths below a folder are the settings and one checkpoint of one layout."""
    return any(len(files) == 2 and "" in layout.models(files) for layout in LAYOUTS)


def below(path: str) -> str | None:
    """The end of a path that is a file of one of the layouts, as a path below the model's folder; None if none is."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if any(layout.has(end) for layout in LAYOUTS)), None)


def check_file(path: str) -> str:
    """A path that is one of a layout's files.

    Raises:
        ValueError: it is none.
    """
    if not any(layout.has(path) for layout in LAYOUTS):
        known = " or ".join(f"{layout.config} or {layout.checkpoint}" for layout in LAYOUTS)
        raise ValueError(f"expected {known}, got {quoted(path)}")
    return path


def weights_file(path: Path) -> Path:
    """The file that holds the weights: a model file itself, or the newest checkpoint in a folder.

    Raises:
        FileError: the folder has none.
    """
    if not is_folder(path):
        return path
    return (layout_at(path) or PUBLISHED).newest(path)
