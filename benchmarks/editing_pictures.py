"""The pictures of docs/editing.md and docs/restoration.md: garments, and what the pages' commands make of them."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import as_picture
from spherectl.recipe import DataSpec

GARMENTS = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")
NUMBERS = (3, 25, 50, 75)  # of the test part: a.png to d.png

# By the name of a picture on a page: the command that makes it, and which of its files is shown.
COMMANDS = {
    "harmonize": ("edit a.png b.png --harmonize", "a-harmonize-steps.png"),
    "harmonize-60": ("edit a.png b.png --harmonize --noise-deg 60 --out x.png", "x-steps.png"),
    "to-class": ("edit a.png --to-class sneaker,bag", "a-to-class-steps.png"),
    "reconstruct": ("edit a.png --reconstruct", "a-reconstruct-steps.png"),
    "interpolate": ("interpolate a.png b.png", "interpolated.png"),
    "inpaint": ("restore b.png --task inpaint --degrade --missing 0.5 --out x.png", "x-steps.png"),
    "denoise": ("restore c.png --task denoise --degrade --sigma 50 --out x.png", "x-steps.png"),
    "upscale": ("restore c.png --task upscale --degrade --scale 4 --out x.png", "x-steps.png"),
    "deblur": ("restore b.png --task deblur --degrade --blur 1.5 --out x.png", "x-steps.png"),
}
SCALE = 3  # so many pixels for one: the model's own are small


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(prog="benchmarks.editing_pictures", description=__doc__)
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pixels = open_dataset(GARMENTS, 28, split="test", root=given.data).gather(torch.tensor(NUMBERS))
        for name, picture in zip("abcd", pixels, strict=True):
            as_picture(picture).save(folder / f"{name}.png")
        for name, (words, shown) in COMMANDS.items():
            command = [sys.executable, "-m", "spherectl", *shlex.split(words), "--model", "fashion-mnist"]
            subprocess.run([*command, "--dtype", "float32"], cwd=folder, check=True)
            with Image.open(folder / shown) as picture:
                large = picture.resize((SCALE * picture.width, SCALE * picture.height), Image.Resampling.NEAREST)
            large.save(folder / shown, optimize=True)
            shutil.copy(folder / shown, given.out / f"{name}.png")
            print(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
