"""Where a model computes, and in what precision: the devices of this machine, by name or by what pays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, get_args

import torch

from spherectl.errors import UsageError
from spherectl.model import kernels
from spherectl.model.sphere import SphereEncoder
from spherectl.shown import quoted

Precision = Literal["float32", "bfloat16", "int8", "float16", "float64"]
Dtype = Literal["auto"] | Precision
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

DEVICES = ("cpu", "cuda", "mps")  # kinds
DTYPES: dict[Precision, torch.dtype] = {  # of the weights in memory
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

MIN_SPEEDUP = 1.2  # so much faster bfloat16 must be to be chosen


def choose_device(name: str | torch.device = "auto") -> torch.device:
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
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError):
        device = None
    if device is None or device.type not in DEVICES:
        raise UsageError(f"There is no device {quoted(name)} here.", "Use auto, or see `spherectl doctor`.")
    return torch.device("cpu") if device.type == "cpu" else device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth it: CUDA, or a CPU with AVX512-BF16 or AMX; on others it is far slower than float32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001
    return device.type == "cuda"


def choose_precision(name: Dtype | torch.dtype, device: torch.device, network: SphereEncoder) -> Precision:
    """The precision of a name; "auto" is bfloat16 on CUDA and on CPUs where it is measured to be faster.

    Args:
        name: "auto", one of `PRECISIONS`, or torch's own dtype of such a name.
        device: where the model computes.
        network: the model.

    Raises:
        UsageError: there is no such precision; less or more than float32 on MPS, which this project runs in float32;
            float16 on a CPU; int8 where the kernels cannot run the network.
    """
    named: object = str(name).removeprefix("torch.") if isinstance(name, torch.dtype) else name
    if not isinstance(named, str) or named not in ("auto", *PRECISIONS):
        raise UsageError(
            f"dtype: expected auto, {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, or such a torch.dtype, "
            f"got {quoted(name)}."
        )
    if device.type == "mps":
        if named not in ("auto", "float32"):
            raise UsageError("On MPS models run in float32.", "Leave --dtype at auto.")
        return "float32"
    if named == "auto":
        pays = device.type == "cuda" or (network.takes_kernels(device) and kernels.speedup() > MIN_SPEEDUP)
        return "bfloat16" if pays else "float32"
    if named == "float16" and device.type == "cpu":
        raise UsageError("On a CPU models run in float32, bfloat16, int8 or float64, not in float16.", "Use bfloat16.")
    if named == "int8" and not network.takes_kernels(device):
        why = kernels.explain() if not kernels.available() else f"not for this model on {device.type}"
        raise UsageError(f"int8 needs the CPU kernels: {why}.", "Leave --dtype at auto.")
    return next(precision for precision in PRECISIONS if precision == named)


def check_compilable(device: torch.device, precision: Precision) -> None:
    """Refuse to compile where that gains nothing, or cannot be.

    Raises:
        UsageError: on MPS, and on a CPU in less than float32.
    """
    if device.type == "mps":
        raise UsageError("torch.compile is for CUDA and CPUs here, not for MPS.", "Leave --compile out.")
    if device.type == "cpu" and precision != "float32":
        raise UsageError(
            "On a CPU torch.compile is for float32: for bfloat16 and int8 there are the CPU kernels, already compiled.",
            "Leave --compile out, or add --dtype float32.",
        )


def finish(device: torch.device) -> Callable[[], object] | None:
    """What waits until the device has done all it was given; None for CPUs, which are never behind."""
    if device.type == "cuda":
        return functools.partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else None
