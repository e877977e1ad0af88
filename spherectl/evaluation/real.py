"""The real images of an evaluation, opened by name: a split of the model's data set, other images, or statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from spherectl.data.datasets import open_dataset
from spherectl.data.image_set import ImageSet
from spherectl.errors import UsageError
from spherectl.evaluation.embeddings import note_on_fit
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.protocol import Real
from spherectl.evaluation.reference import of_images, read_statistics
from spherectl.files import expanded, is_folder, is_there
from spherectl.processes import Processes
from spherectl.progress import Progress
from spherectl.recipe import Recipe


def open_real(
    reference: str | Path | None,
    recipe: Recipe,
    extractor: Extractor,
    *,
    data: str | Path | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Real:
    """The reference, and the splits of a model's data set as far as they are at hand.

    Args:
        reference: "train" or "test", a split of the data set; the path of a folder or list (.jsonl) of images, which
            are fitted as the model's evaluation fits its own; or of statistics (.npz). None: "test" for a scoring
            network, which learned from the training images, else "train" as in the paper.
        recipe: the model's.
        extractor: the network that scores.
        data: where the data set is, if not where the recipe says.
        processes: those that share the work.
        progress: called with images done and images in all.
        say: called with a sentence before a download.

    Raises:
        UsageError: there is no such reference, or it is of another network or size.
        FileError: a file of it is damaged.
    """
    shared = processes or Processes()
    name = str(reference or ("test" if extractor.scorer is not None else "train"))
    # What is not here is fetched where it was asked for, and done without where it was not.
    fetched = name in ("train", "test")

    def split(which: Literal["train", "test"]) -> ImageSet | UsageError:
        try:
            with shared.first_goes_first():
                return open_dataset(
                    recipe.data,
                    recipe.model.image_size,
                    root=data,
                    split=which,
                    evaluation=True,
                    download=fetched,
                    progress=say,
                )
        except UsageError as error:
            return error

    splits = {"train": split("train"), "test": split("test")}
    there = {which: one for which, one in splits.items() if not isinstance(one, UsageError)}
    train, test = there.get("train"), there.get("test")
    if fetched:
        images = splits[name]
        if isinstance(images, UsageError):
            raise images
        made = of_images(images, extractor, what=name, processes=shared, progress=progress)
        return Real(made, train, test, "train" if name == "train" else "test")
    path = expanded(name)
    if is_folder(path) or path.suffix == ".jsonl":
        kind = "jsonl" if path.suffix == ".jsonl" else "folder"
        spec = recipe.data.model_copy(update={"kind": kind, "root": None})
        images = open_dataset(spec, recipe.model.image_size, root=path, evaluation=True)
        note = note_on_fit(images)
        made = of_images(images, extractor, processes=shared, progress=progress)
        return Real(made, train, test, notes=(note,) if note else ())
    if path.suffix != ".npz":
        raise UsageError(
            f"--reference {name}: expected train, test, a folder or list (.jsonl) of images, or statistics in an .npz "
            "file."
        )
    if not is_there(path):
        raise UsageError(f"--reference {name}: there is no such file.")
    statistics = read_statistics(path, extractor, recipe.model.image_size) if shared.is_first else None
    return Real(statistics, train, test)
