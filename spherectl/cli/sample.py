"""`spherectl sample`: draw images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, options
from spherectl.errors import FileError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.api import Generated, Model
    from spherectl.classes import UnknownClassError

ONE_ROW = 20  # so many classes still stand side by side in a grid
PARALLEL_PICTURES = 2  # threads that compress PNGs beside the sampling


class Guide(StrEnum):
    """Which network guidance acts on."""

    BOTH = "both"
    ENCODER = "encoder"
    DECODER = "decoder"


class Noise(StrEnum):
    """Noise of the rounds."""

    SHARED = "shared"
    FRESH = "fresh"


class Strength(StrEnum):
    """Strength of the rounds' noise."""

    CONSTANT = "constant"
    DECAYING = "decaying"


THE_MODELS = "the model's own"


def sample(
    model: options.Model = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="Number, name (or its beginning), range 0-3, several with commas, all, none; repeatable.",
            show_default="all in turn",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images in all, spread evenly over classes.")] = 16,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Passes of the decoder.", show_default=THE_MODELS)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=1.0, help="Guidance scale; 1 is off.", show_default=THE_MODELS)
    ] = None,
    guide: Annotated[
        Guide | None, typer.Option("--guide", help="What guidance acts on.", show_default=THE_MODELS)
    ] = None,
    noise: Annotated[
        Noise | None, typer.Option("--noise", help="One draw for all rounds, or a fresh one.", show_default=THE_MODELS)
    ] = None,
    strength: Annotated[
        Strength | None,
        typer.Option("--strength", help="Noise of the rounds: full, or falling.", show_default=THE_MODELS),
    ] = None,
    seed: options.Seed = 0,
    batch: options.Batch = 64,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help=".png: a grid; .npz: arrays for the ADM suite; else a folder of PNGs. Replaces what is there.",
            show_default="a new name",
        ),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="PNG", help="Make this picture of ours again, from its provenance.")
    ] = None,
    provenance: Annotated[
        bool, typer.Option("--provenance/--no-provenance", help="Say in each PNG how it was made.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Draw images: one forward pass each, or a few rounds that sharpen them.

    Examples:
    spherectl sample --count 40 --out grid.png

    spherectl sample --class sneaker,bag --steps 1 --seed 7 --out pictures/

    spherectl sample --like grid.png --out again.png
    """
    import torch

    from spherectl import api, zoo
    from spherectl.settings import load_settings

    if threads:
        torch.set_num_threads(threads)
    settings = load_settings()
    where = device or settings.device
    if like is not None:
        given = {"--class": class_, "--steps": steps, "--guidance": guidance, "--guide": guide, "--noise": noise}
        _refuse([name for name, value in {**given, "--strength": strength}.items() if value is not None])
        _remake(like, model, where, out, as_json, provenance)
        return
    target = _target(out)
    found = zoo.find_model(model, settings)
    console.say(found.reason)
    loaded = api.load_found(found, device=where, dtype=dtype.value, weights_kind=weights.value)  # type: ignore[arg-type]
    given = {"steps": steps, "guidance": guidance, "guide": guide, "noise": noise, "strength": strength}
    chosen = api.sample_settings(loaded, **{key: value for key, value in given.items() if value is not None})
    try:
        labels = api.spread_classes(loaded, count, class_)
    except UsageError as error:
        from spherectl.classes import UnknownClassError

        raise _with_other_models(error) if isinstance(error, UnknownClassError) else error from None
    console.say(
        f"settings: {chosen.steps} steps, guidance {chosen.guidance:g} ({chosen.guide}), {chosen.noise} noise, "
        f"{chosen.strength} strength, seed {seed}, {dtype.value if dtype != 'auto' else str(loaded.dtype)[6:]}"
    )
    target = target or _new_name(f"{loaded.name}-seed{seed}", ".png")
    batches = api.generate(loaded, count, classes=class_, seed=seed, batch=batch, **chosen.model_dump())
    writer = _Writer(loaded, chosen, seed=seed, batch=batch, count=count, provenance=provenance)
    with console.progress("drawing", count, "images") as bar:
        files = writer.write(target, _watched(batches, bar), _columns(labels, count))
    if as_json:
        model_facts = {"model": loaded.name, "sha256": loaded.sha256}
        console.show_json({"out": str(target), "files": len(files), **model_facts, "seed": seed, **chosen.model_dump()})
    else:
        console.show(str(target))


class _Writer:
    """Writes a run's batches as a grid, a folder or arrays."""

    def __init__(self, model: Model, settings: Any, *, seed: int, batch: int, count: int, provenance: bool) -> None:
        self._model, self._settings, self._provenance = model, settings, provenance
        self._run = {"seed": seed, "batch": batch, "count": count}

    def write(self, target: Path, batches: Iterator[Generated], columns: int | None) -> list[Path]:
        """Everything to `target`; returns the files."""
        if target.suffix not in (".png", ".npz"):
            return self._folder(target, batches)
        import torch

        from spherectl.data.transforms import to_uint8
        from spherectl.images import grid, save_npz, save_png

        drawn = list(batches)
        images = torch.cat([b.images for b in drawn])
        indices = torch.cat([b.indices for b in drawn])
        labels = None if drawn[0].labels is None else torch.cat([b.labels for b in drawn if b.labels is not None])
        if target.suffix == ".npz":
            save_npz(target, to_uint8(images), labels)
        else:
            about = self._about(indices, labels)
            if about is not None and len(images) > 1:
                about["columns"] = columns
            save_png(target, grid(images, columns), about)
        return [target]

    def _folder(self, folder: Path, batches: Iterator[Generated]) -> list[Path]:
        """Separate files, compressed beside the sampling; holds one batch at a time."""
        from concurrent.futures import ThreadPoolExecutor

        from spherectl.data.transforms import to_uint8
        from spherectl.images import save_png

        files: list[Path] = []
        with ThreadPoolExecutor(PARALLEL_PICTURES) as pool:
            for batch in batches:
                jobs = []
                for row, image in enumerate(to_uint8(batch.images)):
                    one = slice(row, row + 1)
                    about = self._about(batch.indices[one], None if batch.labels is None else batch.labels[one])
                    files.append(folder / f"{int(batch.indices[row]):06d}.png")
                    jobs.append(pool.submit(save_png, files[-1], image, about))
                for job in jobs:
                    job.result()
        return files

    def _about(self, indices: Tensor, labels: Tensor | None) -> dict[str, Any] | None:
        from spherectl.provenance import describe

        if not self._provenance:
            return None
        return describe(self._model, self._settings, indices=indices, labels=labels, **self._run)


def _watched(batches: Iterator[Generated], bar: Callable[[int], None]) -> Iterator[Generated]:
    done = 0
    for batch in batches:
        done += len(batch.images)
        bar(done)
        yield batch


def _columns(labels: Tensor | None, count: int) -> int | None:
    """Classes side by side where they are few; else nearly a square."""
    if labels is None:
        return None
    different = len(set(labels.tolist()))
    return different if 1 < different <= ONE_ROW and count > different else None


def _target(out: Path | None) -> Path | None:
    """--out, checked before anything is computed."""
    if out is None:
        return None
    other = out.suffix not in (".png", ".npz") and re.fullmatch(r"\.[A-Za-z]{2,5}", out.suffix)
    if other and not out.is_dir():
        raise UsageError(f"--out {out}: expected a .png (grid), an .npz (arrays) or a folder, got {out.suffix}.")
    if out.suffix in (".png", ".npz") and out.is_dir():
        raise UsageError(f"--out {out} is a folder; a file of that name cannot be written.")
    place = out if out.suffix not in (".png", ".npz") else out.parent
    if place.exists() and not place.is_dir():
        raise UsageError(f"--out {out}: {place} is a file, not a folder.")
    existing = next(p for p in (place, *place.absolute().parents) if p.exists())
    if not os.access(existing, os.W_OK):
        raise FileError(f"Cannot write {out}: {existing} is read-only.", "Give --out a place that can be written.")
    return out


def _new_name(stem: str, suffix: str) -> Path:
    """The first of stem, stem-1, stem-2, ... that no file has."""
    stem = re.sub(r"[^\w.-]+", "-", stem)
    names = (Path(f"{stem}{f'-{n}' if n else ''}{suffix}") for n in range(10**6))
    return next(name for name in names if not name.exists())


def _with_other_models(error: UnknownClassError) -> UsageError:
    """Add which zoo model and which recipe have the class that was asked for."""
    from spherectl import zoo

    asked = error.asked
    entries = [e for e in zoo.index().values() if e.kind == "model" and e.page]
    if re.fullmatch(r"[\d-]+", asked):
        wanted = max(int(n) for n in asked.split("-") if n)
        entries = sorted((e for e in entries if (e.classes or 0) > wanted), key=lambda e: e.classes or 0)
    else:
        entries = [e for e in entries if e.classes == 1000] if _is_imagenet_class(asked) else []
    if not entries:
        return error
    best = entries[0]
    message = error.message.rpartition("; --class")[0] or error.message.rpartition(", none of")[0]
    return UsageError(
        f"{message}; {asked} needs a {best.classes}-class model: `spherectl zoo fetch {best.name}`, "
        f"or `spherectl train recipes/{best.recipe}.toml`."
    )


def _is_imagenet_class(name: str) -> bool:
    """Whether ImageNet has a class of that name; torchvision keeps the list. Only a mistake pays for its import."""
    from torchvision.models import VGG16_Weights

    names = VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    return any(name.strip().lower() == known.lower() for known in names)


def _refuse(names: list[str]) -> None:
    if names:
        raise UsageError(f"--like takes everything from the picture; leave out {', '.join(names)}.")


def _remake(like: Path, model: str | None, device: str, out: Path | None, as_json: bool, provenance: bool) -> None:
    """Make a picture again, compare it with the file, say how they differ."""
    import numpy as np
    import torch
    from PIL import Image

    from spherectl import api
    from spherectl.data.transforms import to_uint8
    from spherectl.images import grid, read_provenance, save_png
    from spherectl.provenance import check, check_model, remake
    from spherectl.settings import load_settings

    if not like.exists():
        raise UsageError(f"There is no picture {like}.")
    table = read_provenance(like)
    if table is None:
        raise UsageError(f"{like} does not say how it was made.", "Only PNGs with our provenance can be made again.")
    check(table)
    target = _target(out)
    name = model or _model_of(table["model"], load_settings().runs)
    loaded = api.load(name, device=device, dtype=table["dtype"], weights_kind=table.get("weights", "ema"))
    check_model(table, loaded)
    images = remake(loaded, table)
    sheet = to_uint8(images[0]) if len(images) == 1 else grid(images, table.get("columns"))
    with Image.open(like) as file:
        before = torch.from_numpy(np.asarray(file.convert("RGB")).copy()).permute(2, 0, 1)
    differ = int((before.int() - sheet.int()).abs().max()) if before.shape == sheet.shape else 255
    target = target or _new_name(f"{like.stem}-again", ".png")
    save_png(target, sheet, table if provenance else None)
    then = ", ".join(f"{k} {v}" for k, v in table.get("versions", {}).items())
    if differ == 0:
        console.say(f"identical to {like}, pixel for pixel")
    elif differ <= 2:
        console.say(f"within {differ} of 255 levels of {like}, which was made with {then} on {table.get('backend')}")
    else:
        console.say(
            f"differs from {like} by up to {differ} levels; that was made with {then} on {table.get('backend')}"
        )
    if as_json:
        console.show_json({"out": str(target), "largest_difference": differ})
    else:
        console.show(str(target))


def _model_of(name: str, runs: Path) -> str:
    """What --model would be for the name in a picture: a zoo entry, or a run."""
    from spherectl import zoo

    return name if name in zoo.index() or not (runs / name).is_dir() else str(runs / name)
