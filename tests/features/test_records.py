"""The records, and a feature network that one file adds: everything that looks networks up sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from typer.testing import CliRunner

from spherectl import zoo
from spherectl.cli.app import app
from spherectl.evaluation.extractors import open_extractor
from spherectl.features import records as folder
from spherectl.features.records import records
from spherectl.features.store import find_feature_network, load_feature_network, read_feature_header

pytestmark = pytest.mark.fast

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
MEANS = """
import torch
from spherectl.features.records import FeatureRecord, Source

class Means(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def embed(self, images):
        return images.mean((2, 3))

RECORDS = (
    FeatureRecord(
        name="means", use="scores", licence="CC0", weights="nowhere", width=3, classes=2,
        source=Source("https://example.org/means.pth", "0" * 64), load=lambda _file, _progress: Means(),
    ),
)
"""


@pytest.fixture
def _means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file of a new network beside the others."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "means.py").write_text(MEANS)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "more")])
    records.cache_clear()
    yield
    records.cache_clear()
    sys.modules.pop("spherectl.features.records.means", None)


@pytest.mark.usefixtures("_means")
def test_one_file_adds_a_feature_network() -> None:
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    extractor = open_extractor("means")
    found = extractor(images)
    torch.testing.assert_close(found["embedding"], images.float().mean((2, 3)) / 255)
    assert found["logits"].shape == (2, 2)
    assert (extractor.name, extractor.is_inception) == ("means", False)
    run = CliRunner().invoke
    listed = {one["name"]: one["width"] for one in json.loads(run(app, ["features", "ls", "--json"]).stdout)}
    assert listed["means"] == 3
    assert json.loads(run(app, ["doctor", "--json"]).stdout)["features"]["means"] == "not here; nowhere"


def test_the_page_lists_every_record() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for name, record in records().items():
        (row,) = [line for line in lines if line.startswith(f"| `{name}` | {record.use} |")]
        assert row.endswith(f" | {record.licence} | {record.weights} |")


def test_records_agree_with_those_who_publish_the_weights() -> None:
    models = torchvision.models
    theirs = {
        "inception": URL_INCEPTION_V3,
        "lpips-vgg16": models.VGG16_Weights.IMAGENET1K_V1.url,
        "convnext-small": models.ConvNeXt_Small_Weights.IMAGENET1K_V1.url,
    }
    for name, url in theirs.items():
        source = records()[name].source
        assert source is not None
        assert source.url == url
        assert url.endswith(f"-{source.sha256[:8]}.pth")  # the publishers' own check of what they fetched
        assert len(source.sha256) == 64
    assert {name for name in records() if name.startswith("dinov2")} == MODEL_METADATA.keys()


def test_records_of_the_zoos_networks_agree_with_their_files() -> None:
    planned = {name: record for name, record in records().items() if record.plan}
    assert planned.keys() == {name for name, entry in zoo.index().items() if entry.kind == "features"}
    for name, record in planned.items():
        header, network = read_feature_header(find_feature_network(name)), load_feature_network(name)
        assert record.image_px == header["image_size"]
        assert record.licence == header["licence"]
        assert record.classes == len(header["class_names"])
        assert network.head.weight.shape == (record.classes, record.width)  # type: ignore[union-attr]
