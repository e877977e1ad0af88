"""ONNX graphs compute what the model computes, at any batch, guided or not, in every precision."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest
import torch

import spherectl
from spherectl.api import Model
from spherectl.errors import SpherectlError, UsageError
from spherectl.export import check
from spherectl.export import onnx as exporting
from spherectl.export.graphs import OUTPUTS, Round, plain
from spherectl.export.onnx import OnnxFile, export_onnx, run
from tests.export.conftest import NAMES

pytestmark = pytest.mark.slow

INPUTS = {
    "decoder": ("latent", "labels"),
    "encoder": ("image", "labels"),
    "round": ("latent", "noise", "sigma", "labels", "encoder_weights", "decoder_weights"),
}


def test_three_files_of_opset_20_with_the_inputs_they_are_documented_with(files: dict[str, OnnxFile]) -> None:
    here = str(Path(exporting.__file__).resolve().parents[2]).encode()
    for part, names in INPUTS.items():
        whole = onnx.load(files[part].path)
        graph = whole.graph
        onnx.checker.check_model(whole, full_check=True)
        assert [(one.domain, one.version) for one in whole.opset_import] == [("", 20)]
        assert not [node.op_type for node in graph.node if "Random" in node.op_type or "Dropout" in node.op_type]
        content = files[part].path.read_bytes()
        assert not [place for place in (here, b"site-packages") if place in content]  # where it was made
        assert files[part].path.name == f"{part}.onnx"
        assert tuple(one.name for one in graph.input) == files[part].inputs == names
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sizes["labels"] == ["sets", "batch"]
    assert sizes["encoder_weights"] == ["sets"]
    assert sizes["sigma"] == []
    assert sizes["image"] == ["batch", 3, 32, 32]
    assert sizes["next_latent"] == sizes["latent"] == ["batch", 16, 8]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_decoder_and_the_encoder_are_the_model_s(files: dict[str, OnnxFile], model: Model, batch: int) -> None:
    labels = torch.arange(batch) % 4
    latent = torch.linspace(-3, 3, batch * 16 * 8).sin().reshape(batch, 16, 8)
    image = run(files["decoder"].path, [{"latent": latent, "labels": labels}])[0]["image"]
    on_sphere = latent / latent.square().mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(image, model.decode(on_sphere, labels), rtol=0, atol=1e-4)
    back = run(files["encoder"].path, [{"image": image, "labels": labels}])[0]
    torch.testing.assert_close(back["latent"], model.encode(image, labels), rtol=0, atol=1e-4)
    raw = back["raw"] / back["raw"].square().mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(raw, back["latent"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("guidance", "guide", "noise", "strength"),
    [(1.6, "both", "fresh", "decaying"), (1.6, "encoder", "shared", "constant")],
)
def test_rounds_outside_torch_are_the_sampler(files, model, guidance, guide, noise, strength) -> None:
    """Three steps by the graphs alone against `spherectl.generate`, for each place of guidance."""
    from spherectl.model import seeding

    settings = {"steps": 3, "guidance": guidance, "guide": guide, "noise": noise, "strength": strength}
    wanted = next(spherectl.generate(model, 5, seed=11, **settings))
    images, w = torch.arange(5), guidance**0.5 if guide == "both" else guidance
    guided, alone = torch.tensor([1 - w, w]), torch.tensor([0.0, 1.0])
    latent = seeding.noise(11, seeding.INITIAL, images, (16, 8))
    for k in (1, 2, 3):
        share = 1.0 if strength == "constant" else 1 - k / 3
        given = {
            "latent": latent,
            "noise": seeding.noise(11, seeding.ROUND, images, (16, 8), 1 if noise == "shared" else k),
            "sigma": torch.tensor(share * model.recipe.round_sigma(model.recipe.sample)),
            "labels": torch.stack((torch.full((5,), 10), images % 10)),
            "encoder_weights": alone if guide == "decoder" else guided,
            "decoder_weights": alone if guide == "encoder" else guided,
        }
        out = run(files["round"].path, [given])[0]
        latent = out["next_latent"]
    torch.testing.assert_close(out["image"], wanted.images, rtol=0, atol=1e-4)


def test_its_round_takes_latent_noise_and_sigma(unusual: Model) -> None:
    given = check.cases(unusual, "round")
    assert [tuple(one) for one in given] == 3 * [("latent", "noise", "sigma")]
    graph = Round(plain(unusual)).eval()
    with torch.no_grad():
        found = [dict(zip(OUTPUTS["round"], graph(**one), strict=True)) for one in given]
    assert check.compare(unusual, "round", given, found).max_difference < 1e-4


@pytest.mark.parametrize(("part", "precision", "shrinks_to"), [("decoder", "float16", 0.75), ("round", "int8", 0.7)])
def test_fewer_bits_are_smaller_and_near(model, files, tmp_path, part, precision, shrinks_to) -> None:
    (file,) = export_onnx(model, tmp_path, [part], precision)
    assert file.path.stat().st_size < shrinks_to * files[part].path.stat().st_size
    given = check.cases(model, part)
    again = check.compare(model, part, given, run(file.path, given))
    assert again == file.difference
    assert again.median_psnr_db >= {"float16": 40, "int8": 30}[precision]
    assert again.max_difference > files[part].difference.max_difference


def test_float16_keeps_the_squares_of_norms_in_float32(model: Model, tmp_path: Path) -> None:
    """On a GPU, whose float16 ends at 65,504; ONNX Runtime on a CPU would not show it."""
    (file,) = export_onnx(model, tmp_path, ["encoder"], "float16")
    graph = onnx.load(file.path).graph
    makers = {name: node for node in graph.node for name in node.output}
    squares = [node for node in graph.node if node.op_type == "Pow"]
    assert squares
    for square in squares:
        source = makers[square.input[0]]
        assert source.op_type == "Cast"
        assert source.attribute[0].i == onnx.TensorProto.FLOAT
    for mean in (node for node in graph.node if node.op_type == "ReduceMean"):
        assert makers[mean.input[0]].op_type in ("Pow", "ReduceMean")
    for root in (node for node in graph.node if node.op_type == "Sqrt"):
        assert makers[root.input[0]].op_type == "Add"


def test_the_file_says_what_it_is(files: dict[str, OnnxFile], model: Model) -> None:
    for part, file in files.items():
        graph = onnx.load(file.path)
        said = json.loads({one.key: one.value for one in graph.metadata_props}["spherectl"])
        assert said["class_names"] == NAMES
        assert said["licence"] == "CC0-1.0"
        assert said["recipe"] == model.header["recipe"]
        assert said["model"] == {"name": "garments", "sha256": model.sha256}
        assert said["part"] == part
        assert said["sigma_max"] == pytest.approx(math.tan(math.radians(65)), rel=1e-12)
        assert said["difference"]["max_difference"] == file.difference.max_difference < 1e-4
        assert said["difference"]["batches"] == [1, 2, 7]


def test_what_differs_too_much_is_refused_and_leaves_no_file(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "in_precision", _spoiled)
    (tmp_path / "decoder.onnx").write_text("what was here before")
    with pytest.raises(SpherectlError, match=r"decoder\.onnx differs too much .* at most 0\.0001"):
        export_onnx(model, tmp_path, ["decoder"])
    assert [path.name for path in tmp_path.iterdir()] == ["decoder.onnx"]
    assert (tmp_path / "decoder.onnx").read_text() == "what was here before"


def _spoiled(graph, precision):
    """One bias of the graph a little off."""
    bias = next(one for one in graph.graph.initializer if one.name.endswith("ffn.linear.bias"))
    values = onnx.numpy_helper.to_array(bias) + 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), bias.name))
    return graph


def test_what_cannot_be_exported_is_refused_first(model, model_file, tmp_path, monkeypatch) -> None:
    half = spherectl.load(str(model_file), device="cpu", dtype="bfloat16")
    with pytest.raises(UsageError, match=r"needs the model in float32; garments was loaded in bfloat16"):
        export_onnx(half, tmp_path)
    monkeypatch.setattr(exporting, "LARGEST_BYTES", 1000)
    with pytest.raises(UsageError, match=r"decoder\.onnx would have .* an ONNX file holds 2 GB"):
        export_onnx(model, tmp_path)
    monkeypatch.setattr(exporting, "PACKAGES", ("onnx", "no_such_package", "nor_this"))
    with pytest.raises(UsageError, match="ONNX needs no_such_package and nor_this, which are not installed") as found:
        export_onnx(model, tmp_path)
    assert "pip install 'spherectl[export]'" in found.value.hint


def test_the_model_is_left_as_it_was(model: Model, files: dict[str, OnnxFile]) -> None:
    """Nothing of a trace stays in the caches that models share."""
    first = next(spherectl.generate(model, 2, steps=2)).images
    assert first.isfinite().all()
    assert type(first) is torch.Tensor
    assert model.network.encoder.kept_rotary is None
