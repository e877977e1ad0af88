"""Compiled networks against the plain ones: same images, one graph each, nothing in it that a CUDA graph refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spherectl import api, provenance
from spherectl.model import vit
from spherectl.model.attention import Backend
from spherectl.model.compiled import compiled
from spherectl.model.layers import Attention
from spherectl.model.sphere import SphereEncoder, build
from spherectl.recipe import ModelSpec

NANO = {"image_size": 32, "patch_size": 8, "size": "nano", "compression_ratio": 24}
SPECS = [
    {"num_classes": 10, "pixel_head": "conv", "encoder_mixer_blocks": 1, "decoder_mixer_blocks": 1},
    {"num_classes": 0, "in_context_tokens": 2, "spherify_decoder_blocks": True},
]


def network(**options: Any) -> SphereEncoder:
    """Small networks whose output depends on everything; ramps for weights."""
    model = build(ModelSpec.model_validate(NANO | options)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if not name.endswith("pos_embed"):
            parameter.copy_(torch.linspace(0, 3 + 0.7 * parameter.numel(), parameter.numel()).cos().view_as(parameter))
            parameter.mul_(0.1)
    return model


def inputs(model: SphereEncoder, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    latents = torch.linspace(-2, 2, batch * 16 * 8).sin().reshape(batch, *model.latent_shape) * 2**0.5
    return latents, torch.arange(batch) % 11 if model.num_classes else None


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, list[Any]]]]:
    """Graphs and their inputs as the tracer hands them to a backend; ours runs them as they are."""
    import torch._dynamo

    kept: list[tuple[Any, list[Any]]] = []

    def keep(graph: Any, inputs: list[Any], **_options: Any) -> Callable[..., Any]:
        kept.append((graph, inputs))
        return graph.forward  # type: ignore[no-any-return]

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=keep))
    yield kept
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("options", SPECS)
def test_each_network_is_one_graph_of_the_same_mathematics(options, graphs):
    """`fullgraph` refuses everything that is not traced; here the graphs run operation by operation."""
    model = network(**options)
    v, y = inputs(model, 3)
    with torch.no_grad():
        x = model.decoder(v, y)
        z = model.encoder(x, y)
        encode, decode = compiled(model)
        assert graphs == []  # nothing is traced before it is called
        for _ in range(2):
            torch.testing.assert_close(decode(v, y), x, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(encode(x, y), z, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 2
    assert float(x.std()) > 0.01
    assert float(z.std()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("options", SPECS)
def test_on_cuda_nothing_stands_on_the_cpu(options, graphs, monkeypatch):
    """Fake tensors have a device without having one: what is traced of them is what would be recorded on a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    steps = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append("begins"))
    # Uncached: a fake tensor must not outlive its mode.
    monkeypatch.setattr(vit, "_rotary", vit._rotary.__wrapped__)
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = build(ModelSpec.model_validate(NANO | options)).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            owner, _, last = name.rpartition(".")
            half = nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False)
            setattr(model.get_submodule(owner), last, half)
        v = torch.empty(5, *model.latent_shape)
        y = torch.empty(5, dtype=torch.int64) if model.num_classes else None
        encode, decode = compiled(model)
        x = decode(v, y)
        z = encode(x, y)
        again = decode(v, y)
    assert (x.device.type, x.dtype, z.device.type, z.dtype) == ("cuda", torch.bfloat16) * 2
    assert again is not x
    assert steps == ["begins"] * 3
    assert len(graphs) == 2
    for graph, values in graphs:
        assert {value.device.type for value in values if isinstance(value, torch.Tensor)} == {"cuda"}
        calls = [node for node in graph.graph.nodes if node.op.startswith("call")]
        assert len(calls) > 50
        assert not [node for node in calls if "cpu" in f"{node.target} {node.args} {node.kwargs}"]
        assert sum("scaled_dot_product_attention" in str(node.target) for node in calls) == len(model.encoder.blocks)


@pytest.mark.fast
@pytest.mark.parametrize(("asked", "taken"), [(None, "sdpa"), ("xformers", "sdpa"), ("sdpa", "sdpa"), ("math", "math")])
def test_attention_is_one_that_a_compiler_sees_through(
    asked: Backend | None, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.append(options) or function)
    model = network(num_classes=0)
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.backend = asked
    compiled(model)
    assert {layer.backend for layer in layers} == {taken}
    assert given == [{"fullgraph": True, "dynamic": False, "mode": "default"}] * 2


@pytest.fixture
def own_compiler() -> Iterator[None]:
    """Torch's own, forgetting what it compiled before and after."""
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "compiler",
    [pytest.param("graphs", marks=pytest.mark.slow), pytest.param("own_compiler", marks=pytest.mark.soak)],
)
def test_images_of_compiled_networks_are_those_of_the_plain_ones(
    compiler: str, request: pytest.FixtureRequest, tiny_run: Path
) -> None:
    """Once a network: a shorter last batch is filled up, and says so of itself."""
    import torch._dynamo.utils as dynamo

    request.getfixturevalue(compiler)
    dynamo.counters.clear()
    plain = api.load(tiny_run, device="cpu", dtype="float32")
    model = api.load(tiny_run, device="cpu", dtype="float32", compile=True)
    settings = api.sample_settings(model, steps=2, guidance=1.5)
    run = {"seed": 3, "batch": 5, **settings.model_dump()}
    batches = list(api.generate(model, 7, **run))
    assert [len(batch.images) for batch in batches] == [5, 2]
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6]]
    images = torch.cat([batch.images for batch in batches])
    expected = torch.cat([batch.images for batch in api.generate(plain, 7, **run)])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert dynamo.counters["stats"]["unique_graphs"] == 2
    about = {"seed": 3, "indices": torch.tensor([1, 6]), "labels": torch.tensor([1, 6]), "batch": 5, "count": 7}
    table = provenance.describe(model, settings, **about)
    assert (table["backend"], table["chunk"]) == ("cpu sdpa compiled", [(5, 1), (5, 1)])
    again, of_again = provenance.remake(model, provenance.read(table))
    assert torch.equal(again, images[[1, 6]])
    assert provenance.read(of_again) == provenance.read(table)
    assert dynamo.counters["stats"]["unique_graphs"] == 2


@pytest.mark.gpu
def test_on_a_gpu_replays_equal_the_plain_networks_and_leave_earlier_results_alone():
    model = network(num_classes=10, pixel_head="conv").to("cuda", torch.bfloat16)
    v, y = (one.cuda() for one in inputs(model, 4))
    with torch.no_grad():
        plain = [model.decoder(v, y), model.decoder(v.flip(0), y)]
        _, decode = compiled(model)
        for _ in range(3):  # eager, recorded, replayed
            first, second = decode(v, y), decode(v.flip(0), y)
            torch.testing.assert_close(first, plain[0], rtol=0, atol=0.05)
            torch.testing.assert_close(second, plain[1], rtol=0, atol=0.05)
