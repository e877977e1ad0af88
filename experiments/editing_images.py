"""The images of docs/editing.md and docs/restoration.md: what the pages' commands make of garments, or of emoji."""

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
from spherectl.data.decode import open_image
from spherectl.data.transforms import as_image
from spherectl.recipe import DataSpec
from spherectl.settings import load_settings

GARMENTS = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")
NUMBERS = (3, 25, 50, 75)  # of the test part: a.png to d.png

# Of the test part, and of Noto's drawings alone: panda.png and so on.
EMOJI = {
    "panda": "nature/noto-1f43c.png",
    "lion": "nature/noto-1f981.png",
    "butterfly": "nature/noto-1f98b.png",
    "thinking": "smileys/noto-1f914.png",
    "winking": "smileys/noto-1f61c.png",
}

# By model and by the name of an image on a page: the command that makes it, and which of its files is shown.
COMMANDS = {
    "fashion-mnist": {
        "harmonize": ("edit a.png b.png --harmonize", "a-harmonize-steps.png"),
        "harmonize-60": ("edit a.png b.png --harmonize --noise-deg 60 --out x.png", "x-steps.png"),
        "to-class": ("edit a.png --to-class sneaker,bag", "a-to-class-steps.png"),
        "reconstruct": ("edit a.png --reconstruct", "a-reconstruct-steps.png"),
        "interpolate": ("interpolate a.png b.png", "interpolated.png"),
        "inpaint": ("restore b.png --task inpaint --degrade --missing 0.5 --out x.png", "x-steps.png"),
        "denoise": ("restore c.png --task denoise --degrade --sigma 50 --out x.png", "x-steps.png"),
        "upscale": ("restore c.png --task upscale --degrade --scale 4 --out x.png", "x-steps.png"),
        "deblur": ("restore b.png --task deblur --degrade --blur 1.5 --out x.png", "x-steps.png"),
    },
    "emoji": {
        "emoji-harmonize": ("edit panda.png lion.png --harmonize --model emoji", "panda-harmonize-steps.png"),
        "emoji-to-class": ("edit lion.png --to-class food,flags --model emoji", "lion-to-class-steps.png"),
        "emoji-reconstruct": ("edit panda.png --reconstruct --model emoji", "panda-reconstruct-steps.png"),
        "emoji-interpolate": ("interpolate thinking.png winking.png --model emoji", "interpolated.png"),
        "emoji-inpaint": (
            "restore butterfly.png --task inpaint --degrade --missing 0.5 --model emoji --out x.png",
            "x-steps.png",
        ),
    },
}
SCALE = 3  # so many pixels for one: the model's own are small


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(prog="experiments.editing_images", description=__doc__)
    parser.add_argument("--data", type=Path, help="Fashion-MNIST, where it is not in its usual place")
    parser.add_argument("--model", choices=COMMANDS, default="fashion-mnist", help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given.model == "emoji":
            for name, path in EMOJI.items():
                shutil.copy(load_settings().data / "emoji" / "test" / path, folder / f"{name}.png")
        else:
            pixels = open_dataset(GARMENTS, 28, split="test", root=given.data).gather(torch.tensor(NUMBERS))
            for name, image in zip("abcd", pixels, strict=True):
                as_image(image).save(folder / f"{name}.png")
        for name, (words, shown) in COMMANDS[given.model].items():
            command = [sys.executable, "-m", "spherectl", *shlex.split(words), "--dtype", "float32"]
            subprocess.run(command, cwd=folder, check=True)
            with open_image(folder / shown) as image:
                large = image.resize((SCALE * image.width, SCALE * image.height), Image.Resampling.NEAREST)
            large.save(folder / shown, optimize=True)
            shutil.copy(folder / shown, given.out / f"{name}.png")
            print(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
