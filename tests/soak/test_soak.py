"""What takes too long for every change: many images, many files, every batch."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherectl import recipe as recipes
from spherectl.images import read_provenance
from spherectl.model import seeding
from spherectl.model.formats.weights import Package, write_package
from spherectl.recipe import Recipe

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux tells it"),
]

ROOT = Path(__file__).resolve().parents[2]

Record = Callable[..., None]


@dataclass(frozen=True)
class Ended:
    """A process that did well: seconds from start to end, its peak of memory, what it printed."""

    seconds: float
    peak_mb: float
    stdout: str


# A parent of its own for each command: a process's peak begins with that of the one it is forked from, here small.
WATCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def watched(cli: Any, *command: str | Path) -> Ended:
    """Run Python with some arguments to its end."""
    peak = cli.folder / "peak-kb"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WATCH, peak, sys.executable, *map(str, command)],
        cwd=cli.folder,
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Ended(time.monotonic() - began, int(peak.read_text()) * 1024 / 1e6, done.stdout)


# Images

IMAGES, FEW, AGAIN = 10_000, 100, 10
NOISE_MB = 30  # what allocators and threads make two runs differ by


def test_a_folder_and_arrays_of_ten_thousand_images_take_the_memory_of_a_hundred(
    cli: Any, tmp_path: Path, lively: Callable[[Recipe], Package], record: Record
) -> None:
    """Of the smallest network, where all that grows with the number would show."""
    model = tmp_path / "nano.safetensors"
    write_package(model, lively(recipes.load(ROOT / "recipes" / "debug.toml")))
    peaks: dict[str, float] = {}
    began = time.monotonic()
    for suffix in ("", ".npz"):
        for count in (FEW, IMAGES):
            out = tmp_path / f"{count}{suffix}"
            settings = ("--model", model, "--steps", "1", "--threads", "1", "--count", str(count), "--out", out)
            peaks[f"{count}{suffix}"] = watched(cli, "-m", "spherectl", "sample", *settings).peak_mb
        assert peaks[f"{IMAGES}{suffix}"] <= peaks[f"{FEW}{suffix}"] + NOISE_MB, f"{suffix or 'folder'}: {peaks}"
    with np.load(tmp_path / f"{IMAGES}.npz", allow_pickle=False) as arrays:
        dataset = arrays["arr_0"]
        for i in random.Random(0).sample(range(IMAGES), FEW):
            with Image.open(tmp_path / str(IMAGES) / f"{i:06d}.png") as image:
                assert np.array_equal(np.asarray(image), dataset[i]), i
    memory = {"peak_mb": peaks[str(IMAGES)], "peak_mb_of_100": peaks[str(FEW)]}
    npz = {"npz_peak_mb": peaks[f"{IMAGES}.npz"], "npz_peak_mb_of_100": peaks[f"{FEW}.npz"]}
    record("one step", size="nano", images=IMAGES, seconds=time.monotonic() - began, **memory, **npz)


def test_ten_thousand_images_take_no_more_memory_than_a_hundred(cli: Any, tmp_path: Path, record: Record) -> None:
    def sample(count: int) -> Ended:
        arguments = ("--steps", "4", "--count", str(count), "--out", tmp_path / str(count))
        return watched(cli, "-m", "spherectl", "sample", *arguments)

    few, many = sample(FEW), sample(IMAGES)
    assert {path.name for path in (tmp_path / str(IMAGES)).iterdir()} == {f"{i:06d}.png" for i in range(IMAGES)}
    assert many.peak_mb <= 1.1 * few.peak_mb
    chosen = [tmp_path / str(IMAGES) / f"{i:06d}.png" for i in random.Random(0).sample(range(IMAGES), AGAIN)]
    for image in chosen:
        again = cli("sample", "--like", image, "--out", tmp_path / "again.png")
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "again.png").read_bytes() == image.read_bytes(), image.name
    made = read_provenance(chosen[0]) or {}
    assert made["model"] == "fashion-mnist"  # the embedded model, since nothing else was named
    about = {"model": made["model"], "model_sha256": made["model_sha256"], "images": IMAGES, "steps": 4}
    memory = {"peak_mb": many.peak_mb, "peak_mb_of_100": few.peak_mb}
    record("images", **about, seconds=many.seconds, **memory, made_again=AGAIN)


EVALUATION_MB = 4_000


def test_ten_thousand_samples_are_evaluated_in_less_than_four_gigabytes(cli: Any, record: Record) -> None:
    arguments = ("--steps", "1,4", "--count", str(IMAGES), "--reconstructions", str(IMAGES), "--json")
    ended = watched(cli, "-m", "spherectl", "evaluate", "fashion-mnist", "--reference", "train", *arguments)
    document = json.loads(ended.stdout)
    assert [row["scores"]["count"] for row in document["rows"]] == [IMAGES, IMAGES]
    assert document["reconstructions"][0]["count"] == IMAGES
    names = {"frechet_distance", "kid", "inception_score", "precision", "recall", "accuracy"}
    assert all(row["scores"][name] is not None for row in document["rows"] for name in names)
    assert ended.peak_mb < EVALUATION_MB
    about = {"model": document["models"][0]["name"], "model_sha256": document["models"][0]["sha256"]}
    facts = {"samples": IMAGES, "rows": 2, "reference": document["reference"]["name"]}
    record("evaluation", **about, **facts, seconds=ended.seconds, peak_mb=ended.peak_mb)


# Folder

CLASSES, A_CLASS, READ = 100, 1000, 512
AGAIN_S = 0.5  # to open a folder whose index is kept

READING = """
import json, resource, sys, time
from pathlib import Path
from spherectl.data.datasets import open_dataset
from spherectl.data.order import training_batches
from spherectl.recipe import DataSpec
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
images = open_dataset(DataSpec(kind="folder"), 32, root=Path(sys.argv[1]))
opened = time.monotonic()
index_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
batches = training_batches(images, seed=0, batch_size=64, flip=False)
read = [next(batches) for _ in range(int(sys.argv[2]) // 64)]
ended = time.monotonic()
batches.close()
colours = [colour for batch in read for colour in batch.images[:, :, 16, 16].tolist()]
labels = [label for batch in read for label in batch.labels.tolist()]
numbers = {"images": len(images), "open_s": opened - began, "read_s": ended - opened, "index_mb": index_mb}
print(json.dumps({**numbers, "colours": colours, "labels": labels}))
"""


def write_folder(folder: Path, a_class: int) -> None:
    """CLASSES class folders of images of one colour, which is its class and its number in two bytes."""
    for label in range(CLASSES):
        (folder / f"{label:02d}").mkdir(parents=True)
        for number in range(a_class):
            pixels = np.full((8, 8, 3), (label, number // 256, number % 256), np.uint8)
            Image.fromarray(pixels).save(folder / f"{label:02d}" / f"{number:04d}.png", compress_level=1)
    for written in (folder, *folder.iterdir()):
        os.utime(written, (1e9, 1e9))  # long unchanged: the index of what was written this moment is not kept


def test_a_folder_of_a_hundred_thousand_images_is_listed_once_and_read_in_order(
    cli: Any, tmp_path: Path, record: Record
) -> None:
    ended: dict[int, Ended] = {}
    told: dict[int, dict[str, Any]] = {}
    for a_class in (A_CLASS // 100, A_CLASS):
        write_folder(tmp_path / str(a_class), a_class)
        ended[a_class] = watched(cli, "-c", READING, tmp_path / str(a_class), str(READ))
        told[a_class] = json.loads(ended[a_class].stdout)
        # The order of the first epoch, as the method's section 11 has it.
        order = seeding.permutation(0, seeding.ORDER, 0, CLASSES * a_class)[:READ].tolist()
        assert told[a_class]["images"] == CLASSES * a_class
        assert told[a_class]["labels"] == [number // a_class for number in order]
        wanted = [[n // a_class, n % a_class // 256, n % a_class % 256] for n in order]
        assert told[a_class]["colours"] == wanted
    few, many = ended.values()
    assert many.peak_mb <= few.peak_mb + 64
    again = json.loads(watched(cli, "-c", READING, tmp_path / str(A_CLASS), str(READ)).stdout)
    assert (again["colours"], again["labels"]) == (told[A_CLASS]["colours"], told[A_CLASS]["labels"])
    assert again["open_s"] < AGAIN_S
    facts = {key: told[A_CLASS][key] for key in ("images", "read_s", "index_mb")}
    opening = {"index_s": told[A_CLASS]["open_s"], "again_s": again["open_s"]}
    record("folder", **facts, **opening, read=READ, peak_mb=many.peak_mb, peak_mb_of_1000=few.peak_mb)


# Batches

COUNT, ALONE = 64, 5


def test_files_are_the_same_whatever_is_sampled_with_them(cli: Any, tmp_path: Path, record: Record) -> None:
    def sample(*arguments: Any) -> None:
        done = cli("sample", *arguments)
        assert done.returncode == 0, done.stderr

    began, compared = time.monotonic(), 0
    for steps in (1, 4):
        expected: list[bytes] = []
        for threads in (1, 2):
            for batch in (64, 16, 7, 5, 1):
                folder = tmp_path / f"{steps}-{threads}-{batch}"
                settings = ("--steps", steps, "--guidance", 1.4, "--dtype", "float32", "--seed", 3)
                sample("--count", COUNT, "--batch", batch, "--threads", threads, *settings, "--out", folder)
                files = [(folder / f"{i:06d}.png").read_bytes() for i in range(COUNT)]
                if not expected:
                    expected = files
                    assert len({Image.open(image).tobytes() for image in folder.iterdir()}) == COUNT
                    continue
                different = [i for i in range(COUNT) if files[i] != expected[i]]
                assert not different, f"{steps} steps, {threads} threads, batch {batch}: {different}"
                compared += COUNT
            alone = tmp_path / f"{steps}-{threads}.png"
            sample("--like", folder / f"{ALONE:06d}.png", "--threads", threads, "--out", alone)
            assert alone.read_bytes() == expected[ALONE]
            compared += 1
    record("batches", files_compared=compared, files_different=0, seconds=time.monotonic() - began)
