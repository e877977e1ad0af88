"""The monitor: against NumPy's singular values, closed forms, memory that is known, and clocks of our own."""

from __future__ import annotations

import builtins
import math
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spherectl.model import kernels
from spherectl.training import monitor
from spherectl.training.monitor import effective_rank, latent_norm, memory_mb, peak_flops

CPU = torch.device("cpu")


def latents(batch: int, tokens: int, channels: int, seed: int = 0) -> Tensor:
    """Latents of all lengths, some directions far more common than others."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, tokens * channels, generator=generator) * torch.logspace(0, -3, tokens * channels)
    lengths = torch.logspace(-2, 3, batch)[:, None]
    return (lengths * z).reshape(batch, tokens, channels)


def rank_by_numpy(z: Tensor) -> float:
    """The same by the singular values of the unit latents."""
    rows = z.double().flatten(1).numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shares = np.linalg.svd(unit, compute_uv=False) ** 2 / len(unit)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.fast
def test_the_norm_is_that_of_whole_latents() -> None:
    z = torch.zeros(2, 4, 3, requires_grad=True)
    with torch.no_grad():
        z[0, 0, 0], z[0, 3, 2], z[1] = 3, 4, 1
    norm = latent_norm(z)
    assert norm.shape == ()
    assert not norm.requires_grad
    assert float(norm) == pytest.approx((5 + math.sqrt(12)) / 2)
    half = torch.full((2, 1024, 64), 0.01, dtype=torch.bfloat16)  # summed in float32
    assert float(latent_norm(half)) == pytest.approx(float(half[0, 0, 0]) * 256, rel=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(40, 4, 3), (12, 8, 16)])
def test_the_rank_is_that_of_singular_values(shape: tuple[int, int, int]) -> None:
    z = latents(*shape)
    assert effective_rank(z) == pytest.approx(rank_by_numpy(z), rel=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(("batch", "width"), [(6, 50), (50, 6), (6, 6)])
def test_the_rank_is_at_most_batch_and_width(batch: int, width: int) -> None:
    axes = torch.arange(batch - batch % min(batch, width)) % width
    assert effective_rank(torch.eye(width)[axes]) == pytest.approx(min(batch, width))
    assert effective_rank(torch.ones(batch, width) * torch.arange(1, batch + 1)[:, None]) == pytest.approx(1)


@pytest.mark.fast
def test_latents_without_a_direction_are_left_out() -> None:
    z = latents(8, 4, 4)
    assert effective_rank(torch.cat((z, torch.zeros(3, 4, 4)))) == pytest.approx(effective_rank(z), rel=1e-6)
    assert effective_rank(torch.zeros(4, 16, 8)) == 0


@pytest.mark.fast
def test_autocast_does_not_make_the_rank_coarse() -> None:
    z = latents(40, 4, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert effective_rank(z) == pytest.approx(rank_by_numpy(z.detach()), rel=1e-5)


@pytest.mark.fast
def test_what_is_timed_is_a_product_of_matrices_of_that_side_and_precision() -> None:
    out = monitor._product(CPU, torch.float64, 96)()
    a, b = torch.rand(2, 96, 96, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(out, a @ b)
    assert monitor._product(CPU, torch.float32, 8)().dtype == torch.float32


class Device:
    """A device of constant speed on a clock of ours: a call costs its operations, and so many seconds beside them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speed: float, *, beside: Callable[[], float] = float) -> None:
        self.now, self.speed, self.beside = 0.0, speed, beside
        self.sides: list[int] = []
        monkeypatch.setattr(monitor, "_product", self.product)
        monkeypatch.setattr(monitor, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def product(self, _device: torch.device, _dtype: torch.dtype, side: int) -> Callable[[], None]:
        self.sides.append(side)

        def call() -> None:
            self.now += 2 * side**3 / self.speed + self.beside()

        return call


@pytest.mark.fast
@pytest.mark.parametrize(("speed", "sides"), [(1e6, 1), (1e9, 2), (1e11, 5), (1e15, 7)])
def test_the_side_grows_as_the_time_allows(monkeypatch: pytest.MonkeyPatch, speed: float, sides: int) -> None:
    device = Device(monkeypatch, speed)
    assert peak_flops(CPU, torch.float32) == pytest.approx(speed, rel=1e-6)
    assert device.sides == [128 * 2**i for i in range(sides)]
    assert device.now <= monitor.BUDGET_S or sides == 1  # the smallest is measured whatever it takes


@pytest.mark.fast
def test_what_is_set_up_once_takes_nothing_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the first product builds the kernels, which takes longer than the whole budget."""
    quick = Device(monkeypatch, 7e10, beside=lambda: 1e-5)
    expected = peak_flops(CPU, torch.float32)
    beside = iter([4 * monitor.BUDGET_S])
    slow = Device(monkeypatch, 7e10, beside=lambda: next(beside, 1e-5))
    assert peak_flops(CPU, torch.float32) == pytest.approx(expected, rel=1e-9)
    assert slow.sides == quick.sides


@pytest.mark.fast
def test_the_peak_is_the_best_of_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds beside the operations in each call; the quickest is the fourth of the second side."""
    beside = iter([9.0, 9.0, 0.4, 0.4, 0.2, 0.4, 0.4, 9.0, 0.4, 0.4, 0.0, 0.4, 0.4])
    Device(monkeypatch, 1e9, beside=lambda: next(beside))
    monkeypatch.setattr(monitor, "BUDGET_S", 1000.0)
    monkeypatch.setattr(monitor, "LARGEST_SIDE", 256)
    assert peak_flops(CPU, torch.float32) == pytest.approx(1e9, rel=1e-6)


@pytest.mark.fast
def test_on_a_cpu_bfloat16_is_what_the_kernels_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(kernels, "bfloat16_product", lambda *shape: asked.append(shape) or (lambda: None))
    monitor._product(CPU, torch.bfloat16, 256)
    assert asked == [(256, 256)]
    monitor._product(CPU, torch.float32, 256)
    assert asked == [(256, 256)]


@pytest.mark.fast
def test_a_bfloat16_product_is_one_of_the_numbers_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch where the kernels' own products are not the quickest: ones times ones."""
    monkeypatch.setattr(kernels, "products_pay", lambda: False)
    out = kernels.bfloat16_product(4, 32)()
    assert torch.equal(out, torch.full((4, 32), 32.0, dtype=torch.bfloat16))


@pytest.mark.slow
def test_memory_is_what_a_process_needed_at_its_worst(cli: Any) -> None:
    code = (
        "import numpy, torch; from spherectl.training.monitor import memory_mb; cpu = torch.device('cpu');"
        "a = memory_mb(cpu); numpy.ones(25_000_000); b = memory_mb(cpu); numpy.ones(10_000_000);"
        "print(a, b, memory_mb(cpu))"
    )
    ended = cli.python("-c", code)
    assert ended.returncode == 0, ended.stderr
    before, after, later = map(float, ended.stdout.split())
    assert after - before == pytest.approx(200, abs=30)  # 25 million numbers of 8 bytes, freed at once
    assert later == after
    assert 50 < before < 2000


@pytest.mark.fast
@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_proc_the_unit_is_the_systems(monkeypatch: pytest.MonkeyPatch, system: str, unit: int) -> None:
    monkeypatch.setattr(monitor, "_STATUS", Path("/nowhere/status"))
    monkeypatch.setattr(monitor.sys, "platform", system)
    usage = {resource.RUSAGE_SELF: SimpleNamespace(ru_maxrss=4_000)}
    monkeypatch.setattr(resource, "getrusage", usage.__getitem__)
    assert memory_mb(CPU) == pytest.approx(4_000 * unit / 1e6)


@pytest.mark.fast
def test_where_nothing_tells_memory_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_resource(name: str, *rest: Any, **named: Any) -> Any:
        if name == "resource":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(monitor, "_STATUS", Path("/nowhere/status"))
    monkeypatch.setattr(builtins, "__import__", no_resource)
    assert math.isnan(memory_mb(CPU))


@pytest.mark.fast
def test_memory_of_gpus_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {1: 3_000_000}[device.index])
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5_000_000)
    assert memory_mb(torch.device("cuda", 1)) == 3
    assert memory_mb(torch.device("mps")) == 5
