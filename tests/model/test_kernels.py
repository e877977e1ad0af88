"""Each compiled kernel, forward and backward, against the same mathematics in torch in float32."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.model import fast, fused, kernels, layers, packing

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(not kernels.available(), reason=f"kernels: {kernels.explain()}"),
]

ROUNDING = 2.0**-8  # the most that rounding to bfloat16 changes a value, relative
CLOSE = 0.006  # relative, of vectors that went through two or three roundings


@pytest.fixture(autouse=True, params=["vectors", "tiles"] if kernels.takes_tiles() else ["vectors"])
def products(request):
    """Every kernel by both kinds of products, where the processor has both."""
    kernels._library().tiles_use(request.param == "tiles")
    yield request.param
    kernels._library().tiles_use(1)


def wave(*shape: int, seed: float = 1.0) -> Tensor:
    """Fixed values of about unit size, different in every place."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * 0.7548776662 * seed).sin().reshape(shape).float() * 1.4


def far(a: Tensor, b: Tensor) -> float:
    """Relative distance of a from b."""
    return float((a.detach().float() - b.detach().float()).norm() / b.detach().float().norm())


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.clone().requires_grad_() for t in tensors]


def test_the_exponential_is_exact_to_float32():
    """Through SiLU, which has it inside, at bfloat16 values: the float64 result, rounded once."""
    x = torch.cat((torch.linspace(-30, 30, 4001), torch.tensor([-100.0, 100.0, 0.0]))).bfloat16()
    expected = F.silu(x.double())
    found = fused._SiLU.apply(x)
    assert ((found.double() - expected).abs() <= expected.abs() * ROUNDING * 1.001 + 1e-30).all()


@pytest.mark.parametrize("width", [16, 128, 1152])
@pytest.mark.parametrize("conditional", [True, False])
def test_add_norm(width, conditional):
    x, delta = wave(3, 10, width), wave(3, 10, width, seed=1.3).bfloat16()
    weight, table = wave(width, seed=0.9) / 4 + 1, wave(3, 6 * width, seed=1.1) / 3
    mine, plain = leaves(x, delta, weight, table), leaves(x, delta.float(), weight, table)
    results = []
    for (a, d, w, t), kernel in ((mine, True), (plain, False)):
        shift, scale, gate = t.chunk(6, dim=-1)[:3] if conditional else (None, None, None)
        if kernel:
            total, y = fused.add_norm(a, d, gate, w, shift, scale)
        else:
            total = a + d if gate is None else a + gate[:, None] * d
            y = F.rms_norm(total, (width,), w, layers.NORM_EPSILON)
            y = y if shift is None else layers.modulate(y, shift, scale)
        (total * wave(*total.shape, seed=0.6)).sum().backward(retain_graph=True)
        (y.float() * wave(*y.shape, seed=0.4).bfloat16().float()).sum().backward()
        results.append((total, y))
    assert far(results[0][0], results[1][0]) < 1e-6
    assert far(results[0][1], results[1][1]) < ROUNDING
    for index, (a, b) in enumerate(zip(mine, plain, strict=True)):
        if b.grad is not None:
            assert far(a.grad, b.grad) < (ROUNDING if index == 1 else 1e-5)


def test_add_norm_without_a_branch_and_with_one_gradient_missing():
    x, weight = leaves(wave(2, 9, 64), wave(64) / 4 + 1)
    total, y = fused.add_norm(x, None, None, weight, None, None)
    assert torch.equal(total, x)
    y.backward(wave(2, 9, 64, seed=0.4).bfloat16())
    (plain,) = leaves(x.detach())
    F.rms_norm(plain, (64,), weight.detach(), layers.NORM_EPSILON).backward(wave(2, 9, 64, seed=0.4).bfloat16().float())
    assert far(x.grad, plain.grad) < 1e-5


@pytest.mark.parametrize("hidden", [16, 85, 341])
def test_swiglu(hidden):
    x, dy = wave(2, 7, 2 * hidden).bfloat16(), wave(2, 7, hidden, seed=0.5).bfloat16()
    mine, plain = leaves(x, x.float())
    y = fused.swiglu(mine)
    a, b = plain.chunk(2, dim=-1)
    z = F.silu(a) * b
    assert (y[..., hidden:] == 0).all()
    y[..., :hidden].backward(dy)
    z.backward(dy.float())
    assert far(y[..., :hidden], z) < ROUNDING
    assert far(mine.grad, plain.grad) < ROUNDING


def test_silu():
    mine, plain = leaves(wave(5, 77).bfloat16(), wave(5, 77).bfloat16().float())
    dy = wave(5, 77, seed=0.3).bfloat16()
    fused.silu(mine).backward(dy)
    F.silu(plain).backward(dy.float())
    assert far(mine.grad, plain.grad) < ROUNDING


@pytest.mark.parametrize(
    ("images", "grid", "heads", "head_width"), [(3, 8, 4, 32), (2, 7, 2, 16), (1, 16, 3, 64), (2, 5, 2, 72)]
)
def test_attention(images, grid, heads, head_width):
    """Tokens and head widths that fill no vector among them."""
    tokens, width = grid**2, heads * head_width
    table = layers.rotary_table(grid, head_width)
    x, dy = wave(images, tokens, 3 * width).bfloat16(), wave(images, tokens, width, seed=0.7).bfloat16()
    mine, plain = leaves(x, x.float())
    y = fused.attention(mine, table, heads)
    qkv = plain.unflatten(-1, (3, heads, -1))
    rotated = layers.rotate(qkv[:, :, :2], table)
    rotated = rotated + (rotated.bfloat16().float() - rotated).detach()  # rounded, as they enter the product
    q, k = rotated.transpose(1, 3).unbind(2)  # (B, H, N, K) each
    z = F.scaled_dot_product_attention(q, k, qkv[:, :, 2].transpose(1, 2)).transpose(1, 2).flatten(2)
    y.backward(dy)
    z.backward(dy.float())
    assert far(y, z) < CLOSE
    assert far(mine.grad, plain.grad) < 3 * CLOSE  # small beside the terms whose difference it is


def test_attention_with_scores_of_any_size():
    """The softmax takes off the largest score first: no overflow at scores of some thousands."""
    x = 60 * wave(1, 16, 3 * 32)
    y = fused.attention(x.bfloat16(), layers.rotary_table(4, 16), 2)
    assert y.isfinite().all()
    assert y.abs().max() <= x.abs().max() * 1.01  # a mean of values


@pytest.mark.parametrize("rows", [8, 9, 63, 200])
@pytest.mark.parametrize(("inputs", "columns"), [(128, 384), (8, 128), (48, 20), (342, 96)])
def test_linear(rows, inputs, columns):
    """Rows and columns that fill no tile among them."""
    layer = nn.Linear(inputs, columns)
    x = wave(1, rows, inputs).bfloat16()
    weight, bias = wave(columns, inputs, seed=0.8) / inputs**0.5, wave(columns, seed=0.2)
    layer.load_state_dict({"weight": weight, "bias": bias})
    packed = packing.pack(weight, bias)
    expected = x.float() @ weight.bfloat16().float().T + bias
    assert far(fast.linear(packed, x, fast.PLAIN), expected) < ROUNDING
    assert far(fast.linear(packed, x, fast.SILU), F.silu(expected)) < ROUNDING
    start, gate = wave(1, rows, columns, seed=0.1), wave(1, columns, seed=0.3)
    assert far(fast.linear(packed, x, fast.RESIDUAL, start.clone()), start + expected) < 1e-5
    added = fast.linear(packed, x, fast.RESIDUAL, start.clone(), gate, columns)
    assert far(added, start + gate[:, None] * expected) < 1e-5


@pytest.mark.parametrize("rows", [8, 131, 600])
@pytest.mark.parametrize(("inputs", "columns"), [(128, 384), (8, 64), (9, 33), (85, 128)])
@pytest.mark.parametrize(("own", "close"), [(True, 1e-5), (False, ROUNDING)])
def test_linear_with_gradients(rows, inputs, columns, own, close, monkeypatch):
    """Rows beyond one block, odd inputs and columns among them; oneDNN rounds gradients of weights to bfloat16."""
    monkeypatch.setattr(kernels, "products_pay", lambda: own)
    x, weight, bias = wave(1, rows, inputs).bfloat16(), wave(columns, inputs, seed=0.8) / 8, wave(columns, seed=0.2)
    dy = wave(1, rows, columns, seed=0.3).bfloat16()
    (mine,), plain = leaves(x), leaves(x.float(), weight.bfloat16().float(), bias)
    layer = nn.Linear(inputs, columns)
    layer.weight, layer.bias = (nn.Parameter(t.detach().clone()) for t in (weight, bias))
    y, z = fused.linear(layer, mine), F.linear(*plain)
    y.backward(dy)
    z.backward(dy.float())
    assert far(y, z) < ROUNDING
    assert far(mine.grad, plain[0].grad) < ROUNDING
    assert far(layer.weight.grad, plain[1].grad) < close
    assert far(layer.bias.grad, plain[2].grad) < close


@pytest.mark.parametrize("hidden", [16, 85, 341])
def test_linear_with_swiglu(hidden):
    x, weight, bias = wave(2, 9, 64).bfloat16(), wave(2 * hidden, 64, seed=0.8) / 8, wave(2 * hidden, seed=0.2)
    y = fast.linear(packing.pack(*packing.interleaved(weight, bias)), x, fast.SWIGLU)
    a, b = (x.float() @ weight.bfloat16().float().T + bias).chunk(2, dim=-1)
    assert far(y[..., :hidden], F.silu(a) * b) < ROUNDING
    assert (y[..., hidden:] == 0).all()


@pytest.mark.parametrize("rows", [8, 50])
def test_linear_in_int8(rows):
    """Against the same rounding of weights and rows done in torch; a tie may go the other way."""
    x, weight, bias = wave(1, rows, 96).bfloat16(), wave(40, 96, seed=0.8) / 10, wave(40, seed=0.2)
    scales = weight.abs().amax(1, keepdim=True) / 127
    row_scales = x.float().abs().amax(-1, keepdim=True) / 127
    whole = (x.float() / row_scales).round() @ (weight / scales).round().T
    expected = whole * row_scales * scales.T + bias
    start = torch.zeros(1, rows, 40)
    assert far(fast.linear(packing.pack_int8(weight, bias), x, fast.RESIDUAL, start), expected) < 1e-3
    assert far(expected, x.float() @ weight.T + bias) < 0.02  # and the rounding is small


@pytest.mark.parametrize(("tokens", "channels"), [(64, 128), (49, 9), (16, 8)])
def test_linear_over_tokens(tokens, channels):
    layer = nn.Linear(tokens, tokens)
    layer.load_state_dict({"weight": wave(tokens, tokens, seed=0.8) / tokens**0.5, "bias": wave(tokens, seed=0.2)})
    x, start = wave(3, tokens, channels).bfloat16(), wave(3, tokens, channels, seed=0.4)
    expected = layer.weight.detach().bfloat16().float() @ x.float() + layer.bias.detach()[:, None]
    weight, bias = packing.pack_tokens(layer)
    y, total = torch.empty_like(x), start.clone()
    kernels.call("tokens_forward", 3, tokens, channels, fast.SILU, x, weight, bias, 0.0, y)
    kernels.call("tokens_forward", 3, tokens, channels, fast.RESIDUAL, x, weight, bias, 0.3, total)
    assert far(y, F.silu(expected)) < ROUNDING
    assert far(total, start + 0.3 * expected) < 1e-5


def test_a_missing_compiler_is_a_reason_and_not_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels.shutil, "which", lambda _: None)
    assert "no C compiler" in kernels._library.__wrapped__()


def test_what_cannot_be_compiled_is_a_reason_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "FLAGS", ("-no-such-option",))
    assert "cannot be built" in kernels._library.__wrapped__()
    assert not list((tmp_path / "kernels").iterdir())


def test_the_setting_switches_them_off(monkeypatch):
    monkeypatch.setenv("SPHERECTL_KERNELS", "false")
    assert "setting" in kernels._library.__wrapped__()


def test_they_are_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path))
    assert isinstance(kernels._library.__wrapped__(), ctypes.CDLL)
    (built,) = (tmp_path / "kernels").glob("*.so")
    before = built.stat().st_mtime_ns
    assert isinstance(kernels._library.__wrapped__(), ctypes.CDLL)
    assert built.stat().st_mtime_ns == before


def test_every_kernel_has_a_signature_of_its_length():
    """The C files' parameters, counted, against what Python passes."""
    text = "".join(path.read_text(encoding="utf-8") for path in kernels.SOURCES)
    for name, letters in kernels.SIGNATURES.items():
        parameters = text.partition(f"int {name}(")[2].partition(") {")[0].split(",")
        kinds = ["p" if "*" in one else "f" if "float" in one else "i" for one in parameters]
        assert "".join(kinds) == letters, name
