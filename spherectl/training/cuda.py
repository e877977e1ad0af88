"""What training does on a GPU of NVIDIA's alone: products in TF32, batches read ahead. Elsewhere it passes through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from spherectl.data.order import Batch

Item = TypeVar("Item")


def takes_tf32(device: torch.device, dtype: str) -> bool:
    """Whether float32 products of a run in `dtype` are taken in TF32: on a GPU that has it, but not in float64 runs."""
    return device.type == "cuda" and dtype != "float64" and torch.cuda.is_tf32_supported()


@contextlib.contextmanager
def tf32(device: torch.device, dtype: str) -> Iterator[None]:
    """Let float32 products and convolutions read ten bits of each mantissa meanwhile, where `takes_tf32`.

    The variable NVIDIA_TF32_OVERRIDE=0, which NVIDIA's libraries obey, keeps them in full.
    """
    cudnn: Any = torch.backends.cudnn  # its types leave `conv` out
    settings = (torch.backends.cuda.matmul, cudnn.conv) if takes_tf32(device, dtype) else ()
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "tf32"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def sent(batches: Generator[Batch | None], device: torch.device) -> Generator[Batch | None]:
    """The same batches on a device.

    For CUDA a thread reads the next batch into pinned memory meanwhile, from where the copy waits for nothing: the CPU
    goes on to queue the step.

    Args:
        batches: endless; closed with this. None stays None.
        device: where they go.
    """
    ahead = device.type == "cuda"
    with contextlib.closing(_one_ahead(batches, _pinned) if ahead else batches) as source:
        for batch in source:
            if batch is None:
                yield None
                continue
            images, labels = (part.to(device, non_blocking=ahead) for part in (batch.images, batch.labels))
            yield batch._replace(images=images, labels=labels)


def _pinned(batch: Batch | None) -> Batch | None:
    if batch is None:
        return None
    return batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())


def _one_ahead(items: Generator[Item], prepare: Callable[[Item], Item]) -> Generator[Item]:
    """Each item prepared, by a thread that is always one item ahead; its errors come where the item would have."""

    def following() -> Item:
        return prepare(next(items))

    # The thread ends before the items are closed: a generator cannot be while it runs.
    with contextlib.closing(items), ThreadPoolExecutor(1) as thread:
        coming = thread.submit(following)
        while True:
            item = coming.result()
            coming = thread.submit(following)
            yield item
