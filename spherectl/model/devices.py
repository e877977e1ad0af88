"""Where a model computes, and in what precision: the devices of this machine, by name or by what pays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch

from spherectl.errors import UsageError
from spherectl.model import kernels
from spherectl.model.sphere import SphereEncoder

Dtype = Literal["auto", "float32", "bfloat16", "int8"]
Precision = Literal["float32", "bfloat16", "int8"]

PAYS = 1.2  # so much faster bfloat16 must be to be chosen


def choose_device(name: str = "auto") -> torch.device:
    """The torch device of a name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        available = (kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available())
        return torch.device(next(available, "cpu"))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"There is no device {name!r} here.", "Use auto, or see `spherectl doctor`.") from None
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth it: CUDA, or a CPU with AVX512-BF16 or AMX; on others it is far slower than float32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001
    return device.type == "cuda"


def choose_precision(name: Dtype, device: torch.device, network: SphereEncoder) -> Precision:
    """The precision of a name; "auto" is bfloat16 on CUDA and on CPUs where it is measured to be faster.

    Raises:
        UsageError: bfloat16 on MPS, which this project runs in float32; int8 where the kernels cannot run the network.
    """
    if name == "float32" or device.type == "mps":
        if name not in ("auto", "float32"):
            raise UsageError("On MPS models run in float32.", "Leave --dtype at auto.")
        return "float32"
    if name == "auto":
        pays = device.type == "cuda" or (network.takes_kernels(device) and kernels.speedup() > PAYS)
        return "bfloat16" if pays else "float32"
    if name == "int8" and not network.takes_kernels(device):
        why = kernels.explain() if not kernels.available() else f"not for this model on {device.type}"
        raise UsageError(f"int8 needs the CPU kernels: {why}.", "Leave --dtype at auto.")
    return name


def check_compilable(device: torch.device, precision: Precision) -> None:
    """Refuse to compile where that gains nothing, or cannot be.

    Raises:
        UsageError: on MPS, and on a CPU in less than float32.
    """
    if device.type == "mps":
        raise UsageError("torch.compile is for CUDA and CPUs here, not for MPS.", "Leave --compile out.")
    if device.type == "cpu" and precision != "float32":
        raise UsageError(
            f"On a CPU torch.compile is for float32: for {precision} there are the CPU kernels, already compiled.",
            "Leave --compile out, or add --dtype float32.",
        )


def finish(device: torch.device) -> Callable[[], object] | None:
    """What waits until the device has done all it was given; None for CPUs, which are never behind."""
    if device.type == "cuda":
        return functools.partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else None
