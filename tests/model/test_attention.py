"""The three backends against a dense computation in float64; xformers through a stand-in kernel on the CPU."""

from __future__ import annotations

import math
import types

import pytest
import torch

from spherectl.model import attention as module
from spherectl.model.attention import attention, choose

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def heads(shift: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.linspace(-3, 3, 2 * 5 * 3 * 8, dtype=torch.float64) * (1 + shift)).sin().reshape(2, 5, 3, 8).to(dtype)


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    logits = torch.einsum("bnhk,bmhk->bhnm", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhnm,bmhk->bnhk", logits.softmax(-1), v)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_backends_equal_the_dense_formula(backend: module.Backend) -> None:
    q, k, v = heads(0), heads(1.3), heads(2.1)
    torch.testing.assert_close(attention(q, k, v, backend), dense(q, k, v), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_xformers_gets_its_layout_scale_and_dtype(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
        """What xformers documents: (B, M, H, K) in, the same out, logits times `scale`, last stride 1."""
        assert all(t.stride(-1) == 1 for t in (q, k, v))
        seen.update(shape=tuple(q.shape), dtype=q.dtype, scale=scale)
        logits = torch.einsum("bnhk,bmhk->bhnm", q.double(), k.double()) * scale
        return torch.einsum("bhnm,bmhk->bnhk", logits.softmax(-1), v.double()).to(q.dtype)

    monkeypatch.setattr(module, "xformers_ops", lambda: types.SimpleNamespace(memory_efficient_attention=kernel))
    q, k, v = heads(0, dtype), heads(1.3, dtype), heads(2.1, dtype)
    out = attention(q, k, v, "xformers")
    assert seen == {"shape": (2, 5, 3, 8), "dtype": dtype, "scale": pytest.approx(8**-0.5)}
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(out.double(), dense(q.double(), k.double(), v.double()), rtol=tolerance, atol=tolerance)


def test_choice_on_a_cpu() -> None:
    assert choose(CPU, torch.bfloat16, 64, 32, training=True) == "math"
    assert choose(CPU, torch.bfloat16, 2048, 32, training=True) == "sdpa"
    assert choose(CPU, torch.bfloat16, 64, 32, training=False) == "sdpa"
    assert choose(CPU, torch.float32, 64, 32, training=True) == "sdpa"


@pytest.mark.parametrize("error", [ImportError("no"), NotImplementedError("no"), RuntimeError("no")])
def test_a_failing_probe_is_a_reason_not_an_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(module, "xformers_ops", broken)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: object())
    module._probe_xformers.cache_clear()
    assert module._probe_xformers("cpu", torch.float32, 8) == "no"
    module._probe_xformers.cache_clear()
