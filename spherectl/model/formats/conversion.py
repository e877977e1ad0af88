"""Converting a fetched checkpoint folder to one of our files, once.

Its pickle is opened once, with weights_only. All tensors are compared with the folder's settings, and those with what
the zoo says of the model. The new file's header records the source, with the SHA-256 of each file.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from spherectl.classes import names_of
from spherectl.errors import FileError, UsageError
from spherectl.files import file_hash
from spherectl.model.formats.layouts import PUBLISHED, layout_at
from spherectl.model.formats.weights import Package, instantiate, read_package, write_package
from spherectl.recipe import load
from spherectl.settings import Settings
from spherectl.zoo import find_recipe
from spherectl.zoo.entries import MODEL_SUFFIX
from spherectl.zoo.receipts import load_receipt, save_receipt


class NoModelError(FileError):
    """What was fetched is not a model, or not the one that the zoo says."""


def converted(path: Path, settings: Settings) -> Path:
    """The model file made of a checkpoint folder in the cache; any other path is returned as it is.

    The folder is removed afterwards. In a cache that cannot be written the folder is used as it is.

    Raises:
        NoModelError: the folder does not hold what its settings, or the zoo, say.
        FileError: the file cannot be written.
    """
    zoo = settings.cache / "zoo"
    if not path.is_relative_to(zoo) or path.suffix == MODEL_SUFFIX or not os.access(path.parent, os.W_OK):
        return path
    from filelock import FileLock

    place = path.relative_to(settings.cache).as_posix()
    target = path.with_name(f"{path.name}{MODEL_SUFFIX}")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if path.is_dir():  # else another process has done it
            receipt = load_receipt(place, settings)
            try:
                package = _checked(path, receipt)
            except FileError as error:
                raise NoModelError(error.message, error.hint) from None
            write_package(target, package)
            save_receipt(place, settings, converted={"sha256": file_hash(target), "bytes": target.stat().st_size})
            shutil.rmtree(path)
    return target


def _checked(folder: Path, receipt: dict[str, Any]) -> Package:
    """The package in a folder, all its tensors of the right shapes, with what the receipt knows of it in its header."""
    package = read_package(folder)
    try:
        instantiate(package)
        if package.raw is not None:
            instantiate(replace(package, weights=package.raw))
    except FileError as error:
        raise FileError(
            f"{folder} is not as its {(layout_at(folder) or PUBLISHED).config} says. {error.message}"
        ) from None
    facts, model = receipt.get("facts", {}), package.recipe.model
    for key, got in (("classes", model.classes), ("image_size", model.image_size)):
        if facts.get(key, got) != got:
            raise FileError(
                f"{folder} is another model than the zoo says: {key} is {got}, expected {facts[key]}.",
                f"`spherectl zoo rm {receipt['name']} --forget` removes it.",
            )
    known = {"licence": receipt.get("licence", "unknown"), "data_licence": facts.get("data_licence")}
    names = package.header["class_names"] or names_of(facts.get("recipe", ""), model.classes)
    source = {key: receipt[key] for key in ("source", "revision", "files") if receipt.get(key)}
    table = {**package.header["recipe"], **_sampling(facts.get("recipe"))}
    header = {**package.header, **known, "recipe": table, "class_names": list(names), "source": source}
    return replace(package, header=header)


def _sampling(recipe: str | None) -> dict[str, Any]:
    """The [sample] table of the recipe that an entry names, which checkpoints lack; empty if it is not one of ours."""
    try:
        return {"sample": load(find_recipe(recipe)).to_table()["sample"]} if recipe else {}
    except UsageError:
        return {}
