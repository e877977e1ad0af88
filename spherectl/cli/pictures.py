"""Pictures that a command is given, and those it makes of them.

Given ones are read and fitted to the model, with a word where the model sees something else; results are written beside
a sheet that shows how they came about.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spherectl.cli import console
from spherectl.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.api import Model
    from spherectl.editing.pictures import Fitted

FAR_DB = 15.0  # a reconstruction below this shows that the model knows nothing of the kind


def find(given: Iterable[str]) -> list[Path]:
    """The picture files that arguments mean: files, folders (with what is below them), and patterns such as *.png.

    Raises:
        UsageError: an argument means none.
    """
    from spherectl.data.decode import SUFFIXES

    found: list[Path] = []
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            here = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.exists():
            here = [path]
        else:
            pattern = path.relative_to(path.anchor) if path.is_absolute() else path
            here = sorted(Path(path.anchor or ".").glob(str(pattern))) if set("*?[") & set(text) else []
        if not here:
            raise UsageError(
                f"There is no picture {text}." if not path.is_dir() else f"The folder {text} holds no pictures."
            )
        found += here
    return found


def read(path: Path, model: Model, told: set[str] | None = None, size: int | None = None) -> Fitted:
    """A picture as the model sees it; says what of it is not seen.

    Args:
        path: of the picture.
        model: that will see it.
        told: what was said before of other pictures, which is not said again; this one's is added.
        size: in pixels, if it is not the model's.

    Raises:
        FileError: it cannot be read.
    """
    from PIL import Image

    from spherectl.data.decode import load_image
    from spherectl.editing.pictures import fit, is_colourful

    picture = load_image(path)
    with Image.open(path) as file:
        frames = getattr(file, "n_frames", 1)
    notes = {}
    if frames > 1:
        notes["frames"] = f"the first of its {frames} frames"
    if model.recipe.data.channels == "grey" and is_colourful(picture):
        notes["grey"] = f"its colours are left out; {seen_by(model)}"
    for kind, note in notes.items():
        if told is None or kind not in told:
            console.say(f"{path}: {note}{'' if told is None else '; so with others'}")
    if told is not None:
        told |= notes.keys()
    return fit(picture, model.recipe, size)


def unit(fitted: Fitted) -> Tensor:
    """(1, 3, S, S) in [0, 1]."""
    from spherectl.data.transforms import to_float

    return to_float(fitted.pixels)[None]


def warn_if_far(paths: list[Path], found_db: list[float], model: Model) -> None:
    """Say of pictures whose reconstructions are bad that the model does not know such."""
    for path, value in zip(paths, found_db, strict=True):
        if value < FAR_DB:
            console.say(f"{path}: its reconstruction reaches only {value:.1f} dB; {seen_by(model)}")


def seen_by(model: Model) -> str:
    """What the model was trained on, as in "fashion-mnist has only seen 32 px grey pictures of fashion-mnist"."""
    recipe, header = model.recipe, model.header
    grey = "grey " if recipe.data.channels == "grey" else ""
    data = f" of {header['data']}" if header.get("data") else ""
    return f"{model.name} has only seen {recipe.model.image_size} px {grey}pictures{data}"


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
    out: Path | None, stem: str, results: dict[str, Tensor], sheet: Tensor, about: dict[str, Any] | None
) -> list[Path]:
    """Write what a command made of a picture.

    Args:
        out: NAME.png, checked by `check_out`; None: a new name made of `stem`.
        stem: of the new name.
        results: uint8 (3, H, W) by what follows NAME, as in "-bag"; the empty string is NAME.png itself.
        sheet: uint8 (3, H, W) of all steps, written to NAME-steps.png.
        about: provenance.

    Returns:
        The files: results in their order, the sheet last.
    """
    from spherectl.files import asked_or_claimed
    from spherectl.images import save_png

    with asked_or_claimed(out, stem) as target:
        files = {target.with_stem(target.stem + suffix): pixels for suffix, pixels in results.items()}
        files[target.with_stem(f"{target.stem}-steps")] = sheet
        for path, pixels in files.items():
            save_png(path, pixels, about)
        if target not in files and out is None:
            target.unlink()
    return list(files)


def tell(model: Model, written: list[Path], facts: dict[str, Any], *, as_json: bool) -> None:
    """Say on stdout which files were written; as JSON with the model and other facts."""
    if as_json:
        told = {"model": model.name, "sha256": model.sha256, **facts}
        console.show_json({"out": [str(path) for path in written], **told})
    else:
        for path in written:
            console.show_file(path)
