"""Both networks through torch.compile, for sampling: one graph each for a batch size, on CUDA replayed as a CUDA graph.

Nothing here is imported by torch until it is asked for: its compiler takes a second to load.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spherectl.errors import SpherectlError
from spherectl.model.layers import Attention
from spherectl.model.sampler import Network
from spherectl.model.sphere import SphereEncoder
from spherectl.model.vit import Trunk


def compiled(network: SphereEncoder) -> tuple[Network, Network]:
    """The encoder and the decoder, each compiled when it first meets a batch size.

    The networks themselves change in two ways: attention is SDPA, whatever was chosen but "math", as a compiler sees
    through it; and the rotary table stays beside the weights, as a CUDA graph cannot fetch it from the CPU.

    Args:
        network: on the device and in the dtype to sample in.

    Returns:
        encode(x, y) and decode(v, y), to be called without gradients and from one thread, to which CUDA graphs belong.
        They raise SpherectlError where torch cannot compile.
    """
    for module in network.modules():
        if isinstance(module, Attention) and module.backend != "math":
            module.backend = "sdpa"
    return _compiled(network.encoder), _compiled(network.decoder)


def _compiled(trunk: Trunk) -> Network:
    weight = trunk.pos_embed
    on_cuda = weight.device.type == "cuda"
    trunk.kept_rotary = trunk.rotary(weight.device, weight.dtype)
    with _told():
        run: Callable[..., Tensor] = torch.compile(
            trunk.forward, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_cuda else "default"
        )

    def call(x: Tensor, y: Tensor | None) -> Tensor:
        with _told():
            if not on_cuda:
                return run(x, y)
            torch.compiler.cudagraph_mark_step_begin()
            return run(x, y).clone()  # the next replay writes over its own output

    return call


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what the compiler raises into a sentence; everything else passes."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0].rstrip(".:") if lines else type(error).__name__
        raise SpherectlError(
            f"torch.compile cannot compile this model here: {reason}.",
            "It needs a C++ compiler on a CPU and Triton on CUDA; without --compile nothing is compiled.",
        ) from error
