"""Images as commands are given them: of any name, in folders, hostile, transparent; and the names of what they make."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import Result

from spherectl.cli.image_files import suffixes
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_tensors

pytestmark = pytest.mark.fast

Command = Callable[..., Result]
F32 = ("--dtype", "float32", "--device", "cpu")


def test_classes_whose_names_are_no_file_names_stay_apart() -> None:
    names = ["T-shirt/top", "T-shirt:top", "bag", "Bag", "steps", "..", "a\0b", "\udce9", "x" * 300, "x" * 299]
    found = suffixes(names)
    assert found[:6] == ["-T-shirt-top", "-T-shirt-top-2", "-bag", "-Bag-2", "-steps-2", "-"]
    assert len({one.casefold() for one in found}) == len(names)
    assert all(re.fullmatch(r"-[^/\\:*?\"<>|\0]{0,60}", one) for one in found)
    assert suffixes(["bag", "bag"]) == ["-bag", "-bag"]  # one class, one file


def test_every_class_is_written_whatever_its_name(command: Command, run_here: Path, work: Path) -> None:
    file = Path("runs/tiny/model.safetensors")
    metadata = read_header(file)
    count = len(metadata["class_names"])
    metadata["class_names"] = ["T-shirt/top", "T-shirt\\top", *metadata["class_names"][2:]]
    save_file(read_tensors(file), "odd.safetensors", {"spherectl": json.dumps(metadata)})
    Image.new("RGB", (32, 32)).save("a.png")
    result = command("edit", "a.png", "--to-class", "all", "--model", "odd.safetensors", "--steps", 1, "--out", "x.png")
    assert result.exit_code == 0, result.stderr
    assert {"x-T-shirt-top.png", "x-T-shirt-top-2.png", "x-steps.png"} <= {path.name for path in work.glob("x*.png")}
    assert len(list(work.glob("x*.png"))) == count + 1


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "--like", "pipe.png"),
        ("edit", "a.png", "b.png", "--harmonize", "--mask", "pipe.png"),
        ("restore", "a.png", "--task", "deblur", "--kernel", "pipe.png"),
    ],
)
def test_a_pipe_is_no_image_whatever_it_is_given_for(
    words: tuple[str, ...],
    command: Command,
    garments: torch.Tensor,
    files: Callable[[], list[str]],
    fails: Callable[..., str],
) -> None:
    os.mkfifo("pipe.png")
    before = files()
    fails(command(*words, "--out", "x.png"), 1, "Cannot read the image pipe.png: ")
    assert files() == before


def test_a_folder_is_encoded_as_training_reads_it(command: Command, garments: torch.Tensor, work: Path) -> None:
    """Hidden files are no images, broken ones are left out with a word, other kinds are counted."""
    folder = Path("photos")
    for name in (".Trash", "__MACOSX", "deep/er"):
        (folder / name).mkdir(parents=True)
        shutil.copy("a.png", folder / name / "0.png")
    for name in ("1.png", "2.jfif", "3.PNG", "._0.png"):
        shutil.copy("b.png", folder / name)
    (folder / "1b.png").write_text("no image")
    (folder / "1c.png").symlink_to("nowhere.png")
    for name in ("a.heic", "b.HEIC", "c.svg", "notes.txt"):
        (folder / name).touch()
    result = command("encode", "photos", "--out", "l.safetensors", "--json", *F32)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["images"], told["left_out"]) == (4, 2)
    header = read_header(Path("l.safetensors"))
    assert header["files"] == ["photos/1.png", "photos/2.jfif", "photos/3.PNG", "photos/deep/er/0.png"]
    said = result.stderr
    assert "photos: 2 .heic, 1 .svg left out" in said
    assert "left out: Cannot read the image photos/1b.png" in said
    assert "2 of 6 images were left out" in said
    assert command("encode", *header["files"], "--out", "named.safetensors", *F32).exit_code == 0
    found, named = (read_tensors(Path(f"{name}.safetensors")) for name in ("l", "named"))
    assert torch.equal(found["latents"], named["latents"])
    assert torch.equal(found["labels"], named["labels"])


def test_a_folder_of_broken_images_and_a_broken_image_that_is_named(
    command: Command, work: Path, files: Callable[[], list[str]], fails: Callable[..., str]
) -> None:
    Path("photos").mkdir()
    for number in range(12):
        Path(f"photos/{number}.png").write_text("no image")
    before = files()
    result = command("encode", "photos", "--out", "l.safetensors", *F32)
    fails(result, 1, "None of the 12 images can be read")
    assert result.stderr.count("left out: ") == 10
    fails(command("encode", "photos/0.png", "--out", "l.safetensors", *F32), 1, "Cannot read the image photos/0.png")
    assert files() == before


@pytest.mark.skipif(sys.platform != "linux", reason="file systems of others take only Unicode")
def test_names_that_are_not_utf_8(command: Command, garments: torch.Tensor, work: Path) -> None:
    """Latin-1 names of an old disk: escapes stand for the bytes wherever a name is told or stored."""
    name = os.fsdecode(b"caf\xe9")
    Path(name).mkdir()
    shutil.copy("a.png", f"{name}/{name}.png")
    result = command("encode", name, f"{name}/{name}.png", "--out", f"{name}.safetensors", "--json", *F32)
    assert result.exit_code == 0, result.stderr
    assert read_header(Path(f"{name}.safetensors"))["files"] == ["caf\\xe9/caf\\xe9.png"] * 2
    result = command("edit", f"{name}/{name}.png", "--reconstruct", "--out", f"{name}.png", "--json", *F32)
    assert result.exit_code == 0, result.stderr
    assert Path(f"{name}.png").is_file()


def test_what_is_transparent_in_a_mask_is_black(command: Command, garments: torch.Tensor, work: Path) -> None:
    left = np.zeros((28, 28), np.uint8)
    left[:, :14] = 255
    Image.fromarray(left).save("plain.png")
    white = np.full((28, 28, 4), 255, np.uint8)
    white[..., 3] = left  # painted in white on a transparent layer
    Image.fromarray(white).save("layer.png")
    for name in ("plain", "layer"):
        words = ("edit", "a.png", "b.png", "--harmonize", "--mask", f"{name}.png", "--steps", 1)
        assert command(*words, "--out", f"{name}-e.png", "--no-provenance", *F32).exit_code == 0
        words = ("restore", "a.png", "--task", "inpaint", "--mask", f"{name}.png", "--rounds", 1)
        assert command(*words, "--out", f"{name}-r.png", "--no-provenance", *F32).exit_code == 0
    for kind in ("e", "r"):
        assert Path(f"layer-{kind}.png").read_bytes() == Path(f"plain-{kind}.png").read_bytes()
