"""torch.export programs run where spherectl cannot be imported, at any batch, and compute what the model computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spherectl.api import Model
from spherectl.errors import SpherectlError
from spherectl.export import check, pt2
from spherectl.export.graphs import example
from spherectl.export.metadata import Exported
from spherectl.export.pt2 import export_pt2, run
from tests.export.conftest import NAMES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def written(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    return export_pt2(model, tmp_path_factory.mktemp("pt2"), ["decoder", "encoder"])


def test_files_and_what_they_say(written: list[Exported], model: Model) -> None:
    assert [file.path.name for file in written] == ["decoder.pt2", "encoder.pt2"]
    here = str(Path(pt2.__file__).resolve().parents[2]).encode()
    for file in written:
        said = {"spherectl.json": ""}
        torch.export.load(file.path, extra_files=said)
        content = file.path.read_bytes()
        assert not [place for place in (here, b"site-packages") if place in content]  # where it was made
        about = json.loads(said["spherectl.json"])
        assert about["class_names"] == NAMES
        assert about["model"]["sha256"] == model.sha256
        assert about["difference"]["max_difference"] == file.difference.max_difference < 1e-4


def test_it_runs_alone_at_other_batches(written: list[Exported], model: Model) -> None:
    """In a process that cannot import spherectl, at a batch that was not in the comparison."""
    given = example(model, "decoder", batch=3, seed=5)
    (out,) = run(written[0].path, [given], ["image"])
    on_sphere = given["latent"] / given["latent"].square().mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(out["image"], model.decode(on_sphere, given["labels"]), rtol=0, atol=1e-4)


def test_the_fresh_process_cannot_import_spherectl(written: list[Exported], monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it able to, the comparison above would show nothing."""
    monkeypatch.setattr(pt2, "RUN", pt2.RUN.replace("module = ", "import spherectl\nmodule = "))
    with pytest.raises(SpherectlError, match=r"does not run in a process of its own: .*spherectl.* It was not written"):
        run(written[0].path, [], [])


def test_what_differs_is_refused_and_leaves_no_file(model: Model, tmp_path: Path, monkeypatch) -> None:
    def a_little_off(_path, given, _outputs):
        return [{"image": check.expected(model, "decoder", inputs)["image"] + 0.01} for inputs in given]

    monkeypatch.setattr(pt2, "run", a_little_off)
    with pytest.raises(SpherectlError, match=r"decoder\.pt2 differs too much from the model"):
        export_pt2(model, tmp_path, ["decoder"])
    assert list(tmp_path.iterdir()) == []
