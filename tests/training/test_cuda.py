"""What only a GPU does, as far as a CPU can tell: settings are put back, batches stay in order, a step is read once."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import warnings
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.order import Batch
from spherectl.errors import SpherectlError
from spherectl.model.sphere import build
from spherectl.processes import Processes
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training import cuda, loop
from spherectl.training.checkpoint import Counts
from spherectl.training.ema import EMA
from spherectl.training.optimiser import FUSED, build_optimiser
from spherectl.training.plan import resolve
from spherectl.training.saver import Saver
from spherectl.training.session import Session
from spherectl.training.step import LossOf, sphere_step

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def an_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


def debug(dataset: ImageSet, dtype: str) -> Recipe:
    return resolve(recipes.load(packaged("recipes") / "debug.toml").replace(run={"dtype": dtype}), dataset, CPU)


def precisions() -> dict[str, str]:
    backends: Any = torch.backends
    of_cuda = {"products": backends.cuda.matmul.fp32_precision, "convolutions": backends.cudnn.conv.fp32_precision}
    return of_cuda | {"on the CPU": backends.mkldnn.matmul.fp32_precision}


# TF32


@pytest.mark.fast
@pytest.mark.usefixtures("an_ampere")
def test_tf32_is_for_cuda_and_not_for_float64():
    dtypes = ("float32", "bfloat16", "float64")
    taken = [(device.type, dtype) for device in (CPU, GPU) for dtype in dtypes if cuda.takes_tf32(device, dtype)]
    assert taken == [("cuda", "float32"), ("cuda", "bfloat16")]


@pytest.mark.fast
@pytest.mark.usefixtures("an_ampere")
def test_tf32_holds_inside_alone_and_without_warnings():
    before = precisions()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(KeyError), cuda.tf32(GPU, "bfloat16"):
            assert precisions() == before | {"products": "tf32", "convolutions": "tf32"}
            raise KeyError
        assert precisions() == before
        for device, dtype in ((CPU, "float32"), (GPU, "float64")):
            with cuda.tf32(device, dtype):
                assert precisions() == before
        # What would raise, were torch to find its old and new settings at odds.
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.fast
def test_a_gpu_without_tf32_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    assert not cuda.takes_tf32(GPU, "float32")


@pytest.mark.fast
def test_a_run_says_in_what_its_products_were_taken(dataset, tmp_path, monkeypatch):
    run = loop.train(debug(dataset, "float32").replace(run={"length_images": 8}), dataset, tmp_path / "a", device=CPU)
    assert json.loads(run.run.info.read_text())["float32_products"] == "float32"
    monkeypatch.setattr("spherectl.training.run.takes_tf32", lambda device, dtype: (device, dtype) == (CPU, "float32"))
    run = loop.train(debug(dataset, "float32").replace(run={"length_images": 8}), dataset, tmp_path / "b", device=CPU)
    assert json.loads(run.run.info.read_text())["float32_products"] == "tf32"


# Batches


def numbers(log: list[str]) -> Generator[int]:
    """Endless; closing it is logged."""
    try:
        for number in itertools.count():
            log.append(f"read {number}")
            if number == 3:
                raise SpherectlError("no image 3")
            yield number
    finally:
        log.append("closed")


@pytest.mark.fast
def test_one_item_is_prepared_ahead_by_a_thread():
    log: list[str] = []
    threads: set[int] = set()
    second = threading.Event()

    def prepare(number: int) -> int:
        threads.add(threading.get_ident())
        if number == 1:
            second.set()
        return 10 * number

    items = cuda._one_ahead(numbers(log), prepare)
    assert log == []
    assert next(items) == 0
    assert second.wait(10)  # read although nobody asked for it
    assert log == ["read 0", "read 1"]
    assert next(items) == 10
    items.close()
    assert log == ["read 0", "read 1", "read 2", "closed"]
    assert threads.isdisjoint({threading.get_ident()})
    assert not threads & {thread.ident for thread in threading.enumerate()}


@pytest.mark.fast
def test_an_error_comes_where_the_item_would_have():
    log: list[str] = []
    items = cuda._one_ahead(numbers(log), lambda number: number)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(SpherectlError, match="no image 3"):
        next(items)
    assert log[-1] == "closed"


def batches(log: list[str]) -> Generator[Batch]:
    for number in numbers(log):
        yield Batch(torch.full((2, 3, 4, 4), number, dtype=torch.uint8), torch.tensor([number, 1]), 2 * number)


@pytest.mark.fast
def test_on_a_cpu_batches_pass_as_they_are_and_nothing_is_read_ahead():
    log: list[str] = []
    sent = cuda.sent(batches(log), CPU)
    assert next(sent).labels.tolist() == [0, 1]
    assert next(sent).first_image == 2
    assert log == ["read 0", "read 1"]
    sent.close()
    assert log[-1] == "closed"


@pytest.mark.fast
def test_for_cuda_batches_are_pinned_and_copied_without_waiting(monkeypatch):
    """Stand-ins for the two calls that need a GPU."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *how, **more: calls.append((*how, more)) or self)
    sent = cuda.sent(batches([]), GPU)
    assert [batch.labels.tolist() for batch in itertools.islice(sent, 2)] == [[0, 1], [1, 1]]
    sent.close()
    assert calls.count((GPU, {"non_blocking": True})) == 4
    assert calls[0] == calls[1] == "pinned"


# A step


class Recorder(TorchDispatchMode):
    """Whatever touches the CPU: copies to the device, numbers made there."""

    def __init__(self) -> None:
        super().__init__()
        self.on_cpu: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.on_cpu.append(str(func))
        return result


@pytest.mark.fast
@pytest.mark.parametrize("pixel_head", ["linear", "conv"])
def test_a_step_is_read_once_and_sends_nothing(dataset, pixel_head, monkeypatch, tmp_path):
    """On the meta device, whose numbers nobody can read: any read but the one that is replaced here would raise."""
    recipe = debug(dataset, "float32").replace(model={"pixel_head": pixel_head})
    reads = []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(tuple(self.shape)) or [1.0] * len(self))
    with torch.device("meta"):
        model = build(recipe.model).train()
        images = torch.empty(8, 3, 32, 32, dtype=torch.uint8)
        labels = torch.zeros(8, dtype=torch.int64)
    training = object.__new__(Session)
    training.recipe, training.processes, training.counts = recipe, Processes(), Counts()
    training.step, training.device = sphere_step(recipe, None), torch.device("meta")
    training.networks, training.loss, training.ema = model, LossOf(model, training.step), EMA(model)
    training.pieces, training.share = [(0, 8)], (0, 8)
    training.saver = Saver(tmp_path, training.processes, lambda *_: None)
    nothing: Any = SimpleNamespace(step=lambda: None, zero_grad=lambda: None, param_groups=[])
    training.optimiser = nothing  # it needs a real device
    for recorder in (Recorder(), Recorder()):  # the first step makes the rotary table, which is kept
        with recorder:
            told = loop.together(training, loop.gradient(training, Batch(images, labels, 0)), stop=False, unreadable=0)
            loop.update(training, told.losses, told.norm)
    assert reads == [(8,), (8,)]
    assert recorder.on_cpu == []


@pytest.mark.fast
def test_the_optimiser_is_fused_where_torch_can():
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

    assert set(FUSED) <= set(_get_fused_kernels_supported_devices())
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    with torch.device("meta"):
        model = build(recipe.model)
    assert build_optimiser(model, recipe.optim).defaults["fused"] is None  # torch chooses
    assert build_optimiser(build(recipe.model), recipe.optim).defaults["fused"] is True


# On a GPU


@pytest.mark.gpu
def test_batches_arrive_on_a_gpu_in_order():
    sent = cuda.sent(batches([]), GPU)
    for number, batch in enumerate(itertools.islice(sent, 3)):
        assert batch.images.is_cuda
        assert batch.images.eq(number).all()
        assert (batch.labels.tolist(), batch.first_image) == ([number, 1], 2 * number)
    sent.close()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_on_a_gpu_learns_as_on_a_cpu(dataset, tmp_path, dtype):
    losses = {}
    for device in (CPU, GPU):
        run = loop.train(debug(dataset, dtype), dataset, tmp_path / device.type, device=device).run
        losses[device.type] = [json.loads(line)["loss"] for line in run.metrics.read_text().splitlines()]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)
