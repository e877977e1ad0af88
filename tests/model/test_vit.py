"""The pixel head's memory format, which only CUDA asks for, must not change a number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spherectl.model.vit import PixelHead

pytestmark = pytest.mark.fast


def test_the_conv_head_sees_channels_last_on_cuda_alone() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    conv, linear = PixelHead("conv", 4, 8), PixelHead("linear", 4, 8)
    assert [head.channels_last(device) for head in (conv, linear) for device in (cuda, cpu)] == [True, *[False] * 3]


def test_channels_last_changes_the_memory_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    head = PixelHead("conv", 4, 8).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).view_as(parameter))
    padding = next(part for part in head if isinstance(part, nn.ReflectionPad2d))
    padding.register_forward_hook(lambda _, __, padded: padded.contiguous())  # as CUDA's leaves it
    seen = []
    convolution = next(part for part in head if isinstance(part, nn.Conv2d))
    convolution.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    tokens = torch.linspace(-2, 2, 2 * 16 * 32, dtype=torch.float64).reshape(2, 16, 32)
    plain = head(tokens)
    monkeypatch.setattr(PixelHead, "channels_last", lambda *_: True)
    torch.testing.assert_close(head(tokens), plain, rtol=1e-12, atol=1e-12)
    assert seen == [False, True]
