"""Worker processes against reading without: where shared memory is full, where one hangs, where one is killed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from spherectl.data import workers
from spherectl.data.decoded import DecodedImages
from spherectl.data.order import training_batches

N, SIZE = 50, 64


class Made(DecodedImages):
    """Image i is of the one grey i; image 13 may never come."""

    hangs = False

    def where(self, index: int) -> str:
        return f"image {index}"

    def load(self, index: int) -> Image.Image:
        if self.hangs and index == 13:
            time.sleep(3600)
        return Image.new("RGB", (SIZE, SIZE), (index, index, index))

    def _contents(self) -> Iterator[bytes]:
        yield b""


def made(*, hangs: bool = False) -> Made:
    shown = Made(name="made", root=Path(), class_names=(), labels=torch.arange(N) % 3, licence="", image_size=SIZE)
    shown.hangs = hangs
    return shown


def take(count: int, **options: int) -> list[torch.Tensor]:
    batches = training_batches(made(), seed=1, batch_size=20, **options)
    taken = [batch for batch in itertools.islice(batches, count) if batch is not None]
    batches.close()
    return [torch.cat((batch.images.flatten(1), batch.labels[:, None]), 1) for batch in taken]


def assert_as_without() -> None:
    for ours, alone in zip(take(8, workers=2), take(8, workers=0), strict=True):
        assert torch.equal(ours, alone)


def full(_tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


@pytest.mark.fast
@pytest.mark.parametrize("memory", ["there", "little", "full later"])
def test_images_are_the_same_with_and_without_shared_memory(memory, monkeypatch):
    monkeypatch.setattr(workers, "_shared_memory_holds", lambda *_: memory != "little")
    if memory == "little":  # a worker that asked for it would be gone
        monkeypatch.setattr(torch.Tensor, "share_memory_", lambda _: os._exit(1))
    elif memory == "full later":
        monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert_as_without()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a file system of its own needs Linux")
def test_a_container_with_little_shared_memory_reads_on_and_leaves_nothing_there(tmp_path):
    """60 images of 12 kB are on their way."""
    script = tmp_path / "read.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_workers\ntest_workers.assert_as_without()\nprint('left', os.listdir('/dev/shm'))\n"
    )
    mounted = f"mount -t tmpfs -o size=512k tmpfs /dev/shm && exec {sys.executable} {script}"
    command = ["unshare", "--mount", "sh", "-c", mounted]
    if subprocess.run([*command[:2], "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:  # noqa: PLW1510
        pytest.skip("only root may mount a file system here")
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": "."}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=root, env=env)
    assert (ended.stdout, ended.returncode) == ("left []\n", 0), ended.stderr
    assert ended.stderr == ""


@pytest.mark.slow
def test_a_stop_is_heard_while_images_do_not_come_and_the_hanging_worker_ends():
    others = set(multiprocessing.active_children())
    stopped: list[bool] = []
    batches = training_batches(made(hangs=True), seed=1, batch_size=20, workers=1, should_stop=lambda: bool(stopped))
    ours: set[multiprocessing.process.BaseProcess] = set()
    began = time.monotonic()
    for batch in batches:
        ours = ours or set(multiprocessing.active_children()) - others
        stopped.append(True)
        if batch is None:
            break
    assert time.monotonic() - began < 10
    assert len(ours) == 1
    batches.close()
    (worker,) = ours
    worker.join(timeout=10)
    assert not worker.is_alive()
