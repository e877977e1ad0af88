"""`spherectl sample --like`: make an image again and say how far it is from the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.cli import console, models
from spherectl.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.provenance import Provenance
    from spherectl.settings import Settings
    from spherectl.zoo import Found


def remake(
    like: Path,
    model: str | None,
    settings: Settings,
    *,
    device: str,
    out: Path | None,
    as_json: bool,
    with_provenance: bool,
) -> None:
    """Make an image again, from its provenance alone.

    Args:
        like: a PNG of ours.
        model: what drew it, as --model takes it; None: looked for by the name and hash in the image.
        settings: where models are.
        device: where to compute.
        out: a .png; None: a new name.
        as_json: tell the result as JSON.
        with_provenance: write it into the new file too.

    Raises:
        UsageError: no image, not one of ours, or its model is not here.
        FileError: a damaged image, or a place that cannot be written.
    """
    from spherectl import api, provenance
    from spherectl.data.transforms import to_uint8
    from spherectl.files import asked_or_claimed, is_there
    from spherectl.images import grid, read_provenance, save_png
    from spherectl.model.devices import choose_device
    from spherectl.output import Kind, check_target, kind

    if not is_there(like):
        raise UsageError(f"There is no image {like}.")
    if out is not None and kind(out) is not Kind.GRID:
        raise UsageError(f"--like makes one PNG: expected an --out that ends in .png, got {out}.")
    check_target(out or Path("again.png"))
    table = read_provenance(like)
    if table is None:
        raise UsageError(f"{like} does not say how it was made.", "Only PNGs with our provenance can be made again.")
    made = provenance.read(table)
    found = models.find(model, settings) if model is not None else _find_drawer(made, settings)
    console.say(found.reason)
    alike = made.was_compiled_on(choose_device(device))
    loaded = api.load_found(found, device=device, dtype=made.dtype, weights_kind=made.weights, compile=alike)
    images, about = provenance.remake(loaded, made)
    pixels = to_uint8(images[0]) if len(images) == 1 else grid(images, made.columns)
    difference = _largest_difference(like, pixels)
    with asked_or_claimed(out, f"{like.stem}-again") as target:
        save_png(target, pixels, about if with_provenance else None)
    _tell(like, made, difference)
    if as_json:
        console.show_json({"out": str(target), "largest_difference": difference})
    else:
        console.show_file(target)


def _find_drawer(made: Provenance, settings: Settings) -> Found:
    """The model that drew an image: of those that the name may mean (runs and zoo), the one with the hash.

    Raises:
        UsageError: none of them is it.
    """
    from spherectl.api import model_hash

    others = []
    for found in _candidates(made.model, settings):
        if model_hash(found.path) == made.model_sha256:
            return found
        others.append(str(found.path))
    but = f": {' and '.join(others)} {'is another' if len(others) == 1 else 'are others'}" if others else ""
    raise UsageError(
        f"The image was drawn by {made.model} (SHA-256 {made.model_sha256[:12]}...), which is not here{but}.",
        "Name the model file, run or folder that drew it with --model.",
    )


def _candidates(name: str, settings: Settings) -> Iterator[Found]:
    """What a name may mean here: a run, a file in the working folder, an entry, one of the hub, the setting's model."""
    from spherectl import zoo
    from spherectl.files import is_regular
    from spherectl.zoo.receipts import notes_of_the_hub

    file = Path(f"{name}.safetensors")
    if Path(name).name == name and is_regular(settings.runs / name / zoo.MODEL_FILE):
        yield zoo.find_model(str(settings.runs / name), settings)
    if file.name == str(file) and is_regular(file):
        yield zoo.find_model(str(file), settings)
    entry = zoo.index(settings).get(name)
    if entry is not None and entry.kind == "model" and entry.state(settings) == "here":
        yield zoo.find_model(name, settings)
    for note in notes_of_the_hub(settings):
        found = zoo.find_model(note["name"], settings)
        if found.name == name:
            yield found
    if settings.model is not None:
        yield zoo.find_model(None, settings)


def _largest_difference(like: Path, pixels: Tensor) -> int | None:
    """In levels of 255, between the file and (3, H, W) pixels; None where their sizes differ."""
    import torch

    from spherectl.data.decode import open_image
    from spherectl.data.transforms import as_tensor

    with open_image(like) as image:
        before = as_tensor(image.convert("RGB"))  # (3, H, W)
    if before.shape != pixels.shape:
        return None
    pixels = pixels.cpu()
    return int((torch.maximum(before, pixels) - torch.minimum(before, pixels)).max())


def _tell(like: Path, made: Provenance, difference: int | None) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    if difference == 0:
        console.say(f"the same as {like}, pixel for pixel")
    elif difference is None:
        console.say(f"{like} has another size than what its provenance describes: it was changed since")
    else:
        far = "within" if difference <= 2 else "differs by up to"
        console.say(f"{far} {difference} of 255 levels of {like}, which was made on {made.backend} with {versions}")
