"""One attention function over three backends.

Shapes: B batch, N tokens, H heads, K head width. Queries, keys and values are (B, N, H, K), as one linear lays them
out.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import math
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["xformers", "sdpa", "math"]

# Above this many tokens the (N, N) matrices of plain attention cost more than SDPA's slow bfloat16 backward on CPUs.
MATH_TOKENS = 1024


def attention(q: Tensor, k: Tensor, v: Tensor, backend: Backend = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(K)) v, not causal, no dropout.

    Args:
        q, k, v: (B, N, H, K), one dtype.
        backend: which implementation; all agree up to rounding.

    Returns:
        (B, N, H, K) in the dtype of `q`.
    """
    if backend == "xformers":
        return xformers_ops().memory_efficient_attention(q, k, v, scale=1 / math.sqrt(q.shape[-1]))  # type: ignore[no-any-return]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, N, K)
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (B, N, H, K)
    weights = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)  # (B, H, N, N)
    return (weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2)  # (B, N, H, K)


def choose(device: torch.device, dtype: torch.dtype, tokens: int, head_width: int, training: bool) -> Backend:
    """The backend for a situation.

    CUDA: xformers where a tiny probe call works, else sdpa. CPU training in bfloat16 with up to 1024 tokens: math, as
    SDPA's backward is several times slower there. Everything else: sdpa.
    """
    if device.type == "cuda":
        return "xformers" if _probe_xformers(str(device), dtype, head_width) == "" else "sdpa"
    if device.type == "cpu" and training and dtype == torch.bfloat16 and tokens <= MATH_TOKENS:
        return "math"
    return "sdpa"


def explain(device: torch.device) -> dict[str, str]:
    """Which backends work on a device, and why not where they do not; for `spherectl doctor`."""
    if device.type != "cuda":
        reason = f"not used on {device.type}: it has CUDA kernels only"
    else:
        reason = _probe_xformers(str(device), torch.bfloat16, 64) or "works (probe call)"
    return {"xformers": reason, "sdpa": "works (torch)", "math": "works (torch)"}


@functools.cache
def xformers_ops() -> ModuleType:
    """xformers.ops, imported on first use; its start-up warnings are about parts that are not needed here."""
    logging.getLogger("xformers").setLevel(logging.ERROR)
    return importlib.import_module("xformers.ops")


@functools.cache
def _probe_xformers(device: str, dtype: torch.dtype, head_width: int) -> str:
    """The empty string where a tiny call runs, else why not. `is_available` of its operators is no guide."""
    if importlib.util.find_spec("xformers") is None:
        return "not installed"
    try:
        probe = torch.zeros(1, 8, 1, head_width, device=device, dtype=dtype)
        attention(probe, probe, probe, "xformers")
    except (ImportError, NotImplementedError, RuntimeError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ""
