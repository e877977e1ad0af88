"""`torchrun several.py FOLDER DATA VARIANT ...`: train the debug recipe together, once a variant, into FOLDER/NAME.

A variant is NAME:TABLES, the tables as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from spherectl import recipe as recipes
from spherectl.data.datasets import open_dataset
from spherectl.processes import joined
from spherectl.settings import packaged
from spherectl.training.loop import train
from spherectl.training.plan import resolve


def main() -> None:
    """Train each variant in all processes."""
    folder, data, *variants = sys.argv[1:]
    torch.set_num_threads(1)
    with joined() as processes:
        for variant in variants:
            name, _, tables = variant.partition(":")
            recipe = recipes.load(packaged("recipes") / "debug.toml", json.loads(tables))
            images = open_dataset(recipe.data, recipe.model.image_size, root=Path(data))
            resolved = resolve(recipe, images, torch.device("cpu"))
            train(resolved, images, Path(folder) / name, device=torch.device("cpu"), processes=processes)


if __name__ == "__main__":
    main()
