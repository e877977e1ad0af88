"""The two networks of the published loss with random weights of their true shapes, and a server that has their files.

A plugin of pytest, so that the 260 MB are made once a session; `served` puts the server in the place of PyTorch's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import lpips
    from torch import Tensor, nn

    from spherectl.features.imagenet import Source


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A web server for a folder on this machine; yields its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def resized(images: Tensor) -> Tensor:
    """ConvNeXt's input by torchvision's own transforms."""
    import torchvision

    transforms = torchvision.transforms.functional
    resize = torchvision.transforms.InterpolationMode.BILINEAR
    out = transforms.resize(images, [224, 224], interpolation=resize, antialias=True)
    return transforms.normalize(out, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="session")
def lpips_module() -> lpips.LPIPS:
    """The package's own module: its heads, on a random trunk whose biases are not 0."""
    import lpips
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for layer in module.net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.bias, -0.1, 0.1)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def convnext() -> nn.Module:
    """torchvision's ConvNeXt-Small, its layer scales raised from 1e-6 so that every block matters."""
    import torch
    import torchvision
    from torch import nn

    torch.manual_seed(1)
    network = torchvision.models.convnext_small(weights=None).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.2, 0.4)
        elif name.endswith("weight") and parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


@pytest.fixture(scope="session")
def vgg16_file(lpips_module: lpips.LPIPS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trunk in torchvision's layout, with a classifier that is to be dropped."""
    import torch

    state = {
        f"features.{name.partition('.')[2]}": value
        for name, value in lpips_module.net.state_dict().items()  # slice1.0.weight -> features.0.weight
    }
    path = tmp_path_factory.mktemp("server") / "vgg16-random.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture(scope="session")
def convnext_file(convnext: nn.Module, vgg16_file: Path) -> Path:
    import torch

    path = vgg16_file.with_name("convnext_small-random.pth")
    torch.save(convnext.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def sources(vgg16_file: Path, convnext_file: Path) -> Iterator[tuple[Source, Source]]:
    """Address and SHA-256 of both files on a server that runs as long as the tests."""
    from spherectl.features.imagenet import Source

    with serving(vgg16_file.parent) as url:
        yield tuple(  # type: ignore[misc]
            Source(f"{url}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
            for path in (vgg16_file, convnext_file)
        )


@pytest.fixture
def served(sources: tuple[Source, Source], monkeypatch: pytest.MonkeyPatch) -> tuple[Source, Source]:
    """`lpips+convnext` fetches from this session's server, pinned to the hashes of its files."""
    from spherectl.features import imagenet

    monkeypatch.delenv("SPHERECTL_OFFLINE", raising=False)
    monkeypatch.setattr(imagenet, "VGG16", sources[0])
    monkeypatch.setattr(imagenet, "CONVNEXT_SMALL", sources[1])
    return sources


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for tests to which fetching is not the point: the first of them fills it."""
    return tmp_path_factory.mktemp("published-cache")
