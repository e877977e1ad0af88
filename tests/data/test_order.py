"""The order against its definition in section 11, image by image, and against itself under every disturbance."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spherectl.data import order, workers
from spherectl.data.datasets import open_dataset
from spherectl.data.order import Batch, image_numbers, training_batches
from spherectl.errors import SpherectlError, UsageError
from spherectl.model import seeding
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

EXCERPT = Path(__file__).parent / "fashion-excerpt"
SEED = 2**40 + 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten images in three classes, all different and none its own mirror image."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(10):
        path = root / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return root


@pytest.fixture
def dataset(folder):
    return open_dataset(DataSpec(fit="pad"), 8, root=folder)


def take(dataset, count: int, **options) -> list[Batch]:
    batches = training_batches(dataset, **options)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def by_definition(dataset, seed: int, s: int, *, flip: bool) -> tuple[torch.Tensor, int]:
    """Image s of the run, one at a time."""
    n = len(dataset)
    number = int(seeding.permutation(seed, seeding.ORDER, s // n, n)[s % n])
    image = dataset[number]
    if flip and seeding.uniform(seed, seeding.AUGMENT, torch.tensor([s]), 1).item() < 0.5:
        image = image.flip(-1)
    return image, int(dataset.labels[number])


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.first_image == b.first_image
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("batch_size", "start"), [(4, 13), (10, 7), (25, 3), (1, 19)])
def test_every_image_is_as_defined(dataset, batch_size, start, flip):
    # Batches of 4, 10 and 25 over 10 images: within an epoch, straddling one, and longer than two.
    batches = take(dataset, 4, seed=SEED, batch_size=batch_size, start_image=start, flip=flip, workers=0)
    for k, batch in enumerate(batches):
        assert batch.first_image == start + k * batch_size
        assert batch.images.shape == (batch_size, 3, 8, 8)
        assert batch.images.dtype == torch.uint8
        assert batch.labels.dtype == torch.int64
        for i in range(batch_size):
            image, label = by_definition(dataset, SEED, batch.first_image + i, flip=flip)
            assert torch.equal(batch.images[i], image)
            assert batch.labels[i] == label


@pytest.mark.parametrize(("batch_size", "start", "count"), [(7, 16, 2), (70, 5, 1)])
def test_workers_change_nothing(dataset, batch_size, start, count):
    # 70 is cut into pieces of 32, 32 and 6; 7 into 4 and 3.
    options = {"seed": SEED, "batch_size": batch_size, "start_image": start}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert_same(take(dataset, 4, workers=count, **options), take(dataset, 4, workers=0, **options))
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator is left alone"


@pytest.mark.parametrize(("shares", "workers"), [([(0, 3), (3, 7)], 1), ([(0, 1), (1, 2), (2, 7)], 0)])
def test_shares_of_several_processes_are_parts_of_the_whole(dataset, workers, shares):
    options = {"seed": SEED, "batch_size": 7, "start_image": 16}
    whole = take(dataset, 4, workers=0, **options)
    parts = [take(dataset, 4, workers=workers, share=share, **options) for share in shares]
    for (begin, end), part in zip(shares, parts, strict=True):
        assert_same(part, [b._replace(images=b.images[begin:end], labels=b.labels[begin:end]) for b in whole])


@pytest.mark.parametrize("shards", [(4,) * 20, (3, 0, 5, 1) * 5, (50,)])
def test_by_shards_an_epoch_shows_every_image_once_and_few_shards_at_a_time(shards):
    n = sum(shards)
    shard_of = torch.repeat_interleave(torch.arange(len(shards)), torch.tensor(shards))
    for epoch in range(2):
        numbers = image_numbers(SEED, epoch * n, n, n, shards)
        assert sorted(numbers.tolist()) == list(range(n))
        # By definition: round 0 permutes the shards, round 1 + w the images of the w-th window of them.
        shuffled = seeding.permutation(SEED, seeding.ORDER, epoch, len(shards))
        at = 0
        for w, window in enumerate(shuffled.split(order.WINDOW)):
            inside = torch.cat([torch.nonzero(shard_of == shard).flatten() for shard in window])
            mixed = inside[seeding.permutation(SEED, seeding.ORDER, epoch, len(inside), 1 + w)]
            assert torch.equal(numbers[at : at + len(inside)], mixed)
            at += len(inside)
    half, whole = image_numbers(SEED, n // 2, n, n, shards), image_numbers(SEED, 0, 2 * n, n, shards)
    assert torch.equal(half, whole[n // 2 : n // 2 + n])


def test_sets_in_memory_start_no_workers(monkeypatch):
    monkeypatch.setattr(workers, "DataLoader", None)
    dataset = open_dataset(DataSpec(kind="fashion-mnist", fit="pad"), 32, root=EXCERPT)
    for count in ("auto", 2):
        batch = take(dataset, 1, seed=0, batch_size=5, flip=False, workers=count)[0]
        numbers = image_numbers(0, 0, 5, 300)
        assert torch.equal(batch.images, dataset.gather(numbers))
        assert torch.equal(batch.labels, dataset.labels[numbers])
        batch.images.zero_()
        assert dataset.gather(numbers).any(), "batches are the caller's own"


def test_auto_is_one_worker_a_core_and_at_most_eight(dataset, monkeypatch):
    for cores, expected in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cores=cores: set(range(cores)), raising=False)
        assert workers.worker_count("auto", dataset) == expected
    assert workers.worker_count(11, dataset) == 11
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert workers.worker_count("auto", dataset) == 2


def test_numbers_out_of_range_are_refused_before_anything_is_made(dataset):
    for options, words in (
        ({"batch_size": 7, "share": (0, 8)}, "Expected a share of the images 0 to 7"),
        ({"batch_size": 4, "workers": 257}, "Expected 0 to 256 workers"),
        ({"batch_size": 10**13}, r"A batch of 10,000,000,000,000 images of 8 px has 1,920,000\.0 GB of pixels"),
    ):
        with pytest.raises(UsageError, match=words):
            training_batches(dataset, seed=0, **options)


def test_workers_ignore_ctrl_c_and_a_killed_one_is_a_sentence(dataset):
    others = set(multiprocessing.active_children())
    batches = training_batches(dataset, seed=SEED, batch_size=2, workers=1)
    got = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - others
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    got += itertools.islice(batches, 9)  # far more than was read ahead
    assert worker.is_alive()
    assert_same(got, take(dataset, 10, seed=SEED, batch_size=2, workers=0))
    # The loader's handler of SIGCHLD raises wherever the main thread happens to be: let that be here.
    with contextlib.suppress(RuntimeError):
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(timeout=30)
        time.sleep(0.01)
    assert not worker.is_alive()
    with pytest.raises(SpherectlError, match="A process that reads images was killed") as caught:
        list(itertools.islice(batches, 50))
    assert "data.workers=0" in caught.value.hint
