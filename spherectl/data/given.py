"""Image files that somebody names: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spherectl.data.decode import SUFFIXES, is_image_name, is_other_image_name
from spherectl.data.names import is_hidden
from spherectl.errors import FileError, UsageError
from spherectl.files import is_folder, is_there
from spherectl.places import place


@dataclass(frozen=True)
class Given:
    """Image files that a command was given.

    Attributes:
        files: in the order of the arguments, those of a folder sorted.
        named: those of them that were named themselves: they have to be readable.
        left_out: of each folder that was given, how many files of other suffixes look like images.
    """

    files: list[Path]
    named: set[Path]
    left_out: dict[str, Counter[str]]


def find_images(given: Iterable[str]) -> Given:
    """The image files that arguments mean: files, folders (with what is below them), and patterns such as *.png.

    Of a folder those count that training on it would read (`data.decode.is_image_name`); hidden files and folders
    never do.

    Raises:
        UsageError: an argument means none, or is none.
        FileError: a folder cannot be read.
    """
    files: list[Path] = []
    named: set[Path] = set()
    left_out: dict[str, Counter[str]] = {}
    for text in given:
        path = place(text)
        if is_folder(path):
            here, left_out[text] = below(path)
            if not here:
                raise UsageError(f"The folder {text} holds no images ({' '.join(SUFFIXES)}).")
        else:
            here = [path] if is_there(path) else _matching(path)
            named.update(here)
            if not here:
                raise UsageError(f"There is no image {text}.")
        files += here
    return Given(files, named, left_out)


def below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The image files in a folder and below, sorted, and how many there are of other suffixes."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as scanned:
                entries = [entry for entry in scanned if not is_hidden(entry.name)]
            folders += [here / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise FileError(f"Cannot read the folder {here}: {error.strerror or error}.") from None
        # A broken link counts: it is told when it is read.
        files = [here / entry.name for entry in entries if not is_folder(here / entry.name)]
        found += [file for file in files if is_image_name(file.name)]
        others.update(file.suffix.lower() for file in files if is_other_image_name(file.name))
    return sorted(found), others


def _matching(pattern: Path) -> list[Path]:
    """The files that a shell would put in the place of a pattern, sorted."""
    if wrong := [part for part in pattern.parts if "**" in part and part != "**"]:
        raise UsageError(f"{pattern} is no pattern: ** stands for folders, so {wrong[0]} cannot be.", "Write one *.")
    # Path.glob raises for some patterns, and does not leave hidden files out.
    names = glob.iglob(str(pattern), recursive=True)  # noqa: PTH207
    return sorted(path for name in names if not is_folder(path := Path(name)))
