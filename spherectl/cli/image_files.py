"""Images that a command is given, and those it makes of them.

Given ones are read and fitted to the model, with a word where the model sees something else; results are written beside
a sheet that shows how they came about.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spherectl.cli import console
from spherectl.errors import FileError, UsageError
from spherectl.shown import MAX_LISTED, listed, printable, shortened

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from spherectl.api import Model
    from spherectl.data.given import Given
    from spherectl.data.image_set import ImageSet
    from spherectl.editing.fitting import Fitted

STEPS = "-steps"  # of the sheet
MAX_STEM = 100  # characters of an image's name in that of a result
MAX_SUFFIX = 40  # characters of a class's name in that of a file
_NO_NAME = re.compile(r'[/\\:*?"<>|]+')  # what the name of a file may not have, here or on Windows

MAX_LOOKED_THROUGH = 100_000  # images of a training set whose folder is listed once more for what is left out
FAR_DB = 15.0  # a reconstruction below this shows that the model knows nothing of the kind


def find(given: Iterable[str]) -> Given:
    """The image files that arguments mean (`data.given.find_images`); says what in folders is not read.

    Raises:
        UsageError: an argument means none, or is none.
        FileError: a folder cannot be read.
    """
    from spherectl.data.given import find_images

    found = find_images(given)
    for folder, others in found.left_out.items():
        _tell_left_out(folder, others)
    return found


def tell_left_out(dataset: ImageSet) -> None:
    """Say which kinds of images in a training set's folder are not read; of very large sets it takes too long."""
    from spherectl.data.decoded import FolderImages
    from spherectl.data.given import below

    if isinstance(dataset, FolderImages) and len(dataset) <= MAX_LOOKED_THROUGH:
        folder = dataset.listing.folder
        _tell_left_out(str(folder), below(folder)[1])


def _tell_left_out(folder: str, others: Counter[str]) -> None:
    from spherectl.data.decode import SUFFIXES

    if others:
        kinds = listed(f"{count:,} {suffix}" for suffix, count in sorted(others.items()))
        console.say(f"{folder}: {kinds} left out; images are {' '.join(SUFFIXES)}")


def read(path: Path, model: Model, told: set[str] | None = None, size: int | None = None) -> Fitted:
    """An image as the model sees it; says what of it is not seen.

    Args:
        path: of the image.
        model: that will see it.
        told: what was said before of other images, which is not said again; this one's is added.
        size: in pixels, if it is not the model's.

    Raises:
        ImageError: it cannot be read.
    """
    from spherectl.data.decode import is_animated, load_image
    from spherectl.editing.fitting import fit, is_colourful

    image = load_image(path)
    notes = {}
    if is_animated(path):
        notes["frames"] = "the first of its frames"
    if model.recipe.data.channels == "grey" and is_colourful(image):
        notes["grey"] = f"its colours are left out; {seen_by(model)}"
    for kind, note in notes.items():
        if told is None or kind not in told:
            console.say(f"{path}: {note}{'' if told is None else '; so with others'}")
    if told is not None:
        told.update(notes)
    return fit(image, model.recipe, size)


class Readable:
    """Reads images as the model sees them, and leaves out files of a folder that cannot be read, with a word each.

    Args:
        given: the files.
        model: that will see them.
    """

    def __init__(self, given: Given, model: Model) -> None:
        self._given, self._model = given, model
        self._told: set[str] = set()
        self.left_out = 0

    def __call__(self, numbers: Iterable[int]) -> dict[int, Tensor]:
        """Of the files of those numbers uint8 (3, S, S) by number, where they can be read.

        Raises:
            ImageError: one that was named itself cannot.
        """
        from spherectl.data.decode import ImageError

        found: dict[int, Tensor] = {}
        for number in numbers:
            path = self._given.files[number]
            try:
                found[number] = read(path, self._model, self._told).pixels
            except ImageError as error:
                if path in self._given.named:
                    raise
                self.left_out += 1
                if self.left_out <= MAX_LISTED:
                    console.say(f"left out: {error.message}")
        return found

    def check(self) -> None:
        """Say how many were left out, once all were read.

        Raises:
            FileError: all were.
        """
        count = len(self._given.files)
        if self.left_out == count:
            raise FileError(f"None of the {count:,} images can be read.", "Repair or remove the files.")
        if self.left_out:
            console.say(f"{self.left_out:,} of {count:,} images were left out")


def unit(fitted: Fitted) -> Tensor:
    """(1, 3, S, S) in [0, 1]."""
    from spherectl.data.transforms import to_float

    return to_float(fitted.pixels)[None]


def warn_if_far(paths: list[Path], found_db: list[float], model: Model) -> None:
    """Say of images whose reconstructions are bad that the model does not know such."""
    for path, value in zip(paths, found_db, strict=True):
        if value < FAR_DB:
            console.say(f"{path}: its reconstruction reaches only {value:.1f} dB; {seen_by(model)}")


def seen_by(model: Model) -> str:
    """What the model was trained on, as in "fashion-mnist has only seen 32 px grey images of fashion-mnist"."""
    recipe, header = model.recipe, model.header
    grey = "grey " if recipe.data.channels == "grey" else ""
    data = f" of {header['data']}" if header.get("data") else ""
    return f"{model.name} has only seen {recipe.model.image_size} px {grey}images{data}"


def check_out(out: Path | None) -> None:
    """Refuse a place for results that cannot be written, or that is no .png, before anything is computed.

    Raises:
        UsageError: it is no .png, or the name is taken by something else.
        FileError: no file can be made there.
    """
    from spherectl.output import check_target

    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"Expected an --out that ends in .png, got {out}.")
    check_target(out or Path("result.png"))


def write(
    out: Path | None, stem: str, results: Iterable[tuple[str, Image]], sheet: Tensor, about: dict[str, Any] | None
) -> list[Path]:
    """Write what a command made of an image.

    Args:
        out: NAME.png, checked by `check_out`; None: a new name made of `stem`.
        stem: of the new name.
        results: what follows NAME, as in "-bag" (the empty string is NAME.png itself), and the image; written as they
            come, since those of a photo are large.
        sheet: uint8 (3, H, W) of all steps, written to NAME-steps.png.
        about: provenance.

    Returns:
        The files: results in their order, the sheet last.
    """
    from spherectl.files import asked_or_claimed
    from spherectl.images import save_png

    written: list[Path] = []
    every: Iterable[tuple[str, Image | Tensor]] = itertools.chain(results, [(STEPS, sheet)])
    with asked_or_claimed(out, shortened(stem, MAX_STEM)) as target:
        for suffix, pixels in every:
            written.append(target.with_stem(target.stem + suffix))
            save_png(written[-1], pixels, about)
        if target not in written and out is None:
            target.unlink()
    return written


def suffixes(names: Sequence[str]) -> list[str]:
    """What tells the files of several results apart: "-NAME", of characters that file systems take.

    Distinct names stay distinct, also where upper and lower case are one, and none is "-steps".

    Example:
        >>> suffixes(["T-shirt/top", "T-shirt:top", "bag"])
        ['-T-shirt-top', '-T-shirt-top-2', '-bag']
    """
    found: dict[str, str] = {}
    for name in names:
        safe = shortened(_NO_NAME.sub("-", printable(name)), MAX_SUFFIX).strip(". ")
        taken = {STEPS, *(one.casefold() for one in found.values())}
        numbered = itertools.chain([f"-{safe}"], (f"-{safe}-{number}" for number in itertools.count(2)))
        if name not in found:
            found[name] = next(one for one in numbered if one.casefold() not in taken)
    return [found[name] for name in names]


def tell(model: Model, written: list[Path], facts: dict[str, Any], *, as_json: bool) -> None:
    """Say on stdout which files were written; as JSON with the model and other facts."""
    if as_json:
        told = {"model": model.name, "sha256": model.sha256, **facts}
        console.show_json({"out": [str(path) for path in written], **told})
    else:
        for path in written:
            console.show_file(path)
