"""Feature networks: bits that do not depend on company, weights that are not unpickled, mistakes in a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from spherectl.data.datasets import ImageSet
from spherectl.data.transforms import to_float
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.evaluation.extractors import CHUNK, Extractor, default_features, open_extractor
from spherectl.features.store import load_feature_network
from tests.evaluation.conftest import Malicious

pytestmark = pytest.mark.fast


def test_features_are_the_networks_own(scorer: Extractor, excerpt: tuple[ImageSet, ImageSet]) -> None:
    dataset = excerpt[1].gather(torch.arange(40))
    network = load_feature_network("fashion-scorer")
    found = scorer(dataset)
    with torch.no_grad():
        torch.testing.assert_close(found["embedding"], network.embed(to_float(dataset)))
        torch.testing.assert_close(found["logits"], network(to_float(dataset)))
    assert scorer.class_names == excerpt[1].class_names


def test_a_images_bits_do_not_depend_on_those_beside_it(scorer: Extractor, excerpt: tuple[ImageSet, ImageSet]) -> None:
    dataset = excerpt[1].gather(torch.arange(CHUNK + 9))
    together = scorer(dataset)["embedding"]
    for size in (1, 7, CHUNK):
        apart = torch.cat([scorer(some)["embedding"] for some in dataset.split(size)])
        assert torch.equal(apart, together)


def test_the_default_is_the_scorer_of_the_data_and_never_a_loss() -> None:
    assert default_features("fashion-mnist") == "fashion-scorer"
    assert default_features("cifar10") == "inception"


def test_inceptions_weights_are_not_unpickled(tmp_path: Path) -> None:
    torch.save({"weight": Malicious(tmp_path / "mark")}, tmp_path / "evil.pth")
    with pytest.raises(FileError, match="holds more than tensors, which is never executed here"):
        open_extractor(f"inception:{tmp_path / 'evil.pth'}")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", ["other", "cut", "pipe"])
def test_a_file_that_is_not_inceptions_is_refused(tmp_path: Path, inception_file: Path, content: str) -> None:
    path = tmp_path / "weights.pth"
    if content == "other":
        torch.save({"fc.weight": torch.zeros(3)}, path)
    elif content == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(inception_file.read_bytes()[:100_000])
    sentences = "not hold the weights of torch-fidelity's Inception-v3|not a readable file of weights|Cannot read"
    with pytest.raises(FileError, match=sentences):
        open_extractor(f"inception:{path}")


def test_inceptions_weights_are_read_in_the_layout_of_old_torch(tmp_path: Path, inception_file: Path) -> None:
    """Published files of weights may be older than torch's archives."""
    state = torch.load(inception_file, weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old, new = (open_extractor(f"inception:{path}") for path in (tmp_path / "old.pth", inception_file))
    assert old.digest == new.digest
    assert new.digest.startswith("Inception-")  # as stored statistics of earlier versions have it


def test_a_missing_file_and_an_unknown_name_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_extractor(f"inception:{tmp_path / 'none.pth'}")
    with pytest.raises(UsageError, match="no feature network 'inceptoin'"):
        open_extractor("inceptoin")
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(SpherectlError, match=r"6726825d\.pth is missing"):
        open_extractor("inception")


def test_dinov2_is_torch_fidelitys(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mean(torch.nn.Module):
        """Stands in for the network: channel means of what it is given."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: Mean())
    extractor = open_extractor("dinov2-vit-s-14")
    grey = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(extractor(grey)["embedding"], expected.expand(2, 3), rtol=1e-5, atol=1e-5)
    assert extractor.logits is None
    assert extractor.digest.startswith("FeatureExtractorDinoV2-")
    assert not extractor.is_inception
