"""Feature networks as files: round trip, names, and what each bad file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl.errors import FileError, UsageError
from spherectl.features import store
from spherectl.features.networks import KINDS, build_network
from spherectl.model.formats import weights

pytestmark = pytest.mark.fast

ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {"num_classes": 3, "widths": [4, 5], "convolutions": [1, 2]},
    "residual": {"num_classes": 3, "widths": [4, 5], "blocks": [1, 1]},
}


ENTRY = """
[[entry]]
name = "{name}"
kind = "{kind}"
file = "{name}.safetensors"
licence = "none"
summary = "made by a test"
channels = "grey"
image_size = 32
classes = 3
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A further zoo of feature networks a, b, c and a model m, whose files each test writes."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    kinds = {"a": "features", "b": "features", "c": "features", "m": "model"}
    index = "".join(ENTRY.format(name=name, kind=kind) for name, kind in kinds.items())
    (folder / "index.toml").write_text(index, encoding="utf-8")
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(folder / "index.toml"))
    return folder


def write(path: Path, kind: str = "plain", **about: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network(kind, ARGUMENTS[kind])
    store.save_feature_network(path, network, kind, ARGUMENTS[kind], {"image_size": 32, **about})
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_comes_back_as_it_was_frozen_and_in_eval_mode(
    kind: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = write(zoo / "a.safetensors", kind, accuracy=0.5)
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"a file of that name does not go before the zoo's")
    images = torch.rand(2, 3, 16, 16)
    for where in ("a", zoo / "a.safetensors", str(zoo / "a.safetensors")):
        loaded = store.load_feature_network(where)
        assert torch.equal(loaded(images), network(images))
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    header = store.read_feature_header(zoo / "a.safetensors")
    assert (header["architecture"], header["kind"], header["accuracy"]) == ("feature-network", kind, 0.5)


def test_an_unknown_name_lists_the_feature_networks_and_nothing_else(zoo: Path) -> None:
    listed = r"Those in the zoo: a, b, c, emoji-features, emoji-scorer, fashion-features, fashion-scorer\."
    for name in ("third", "m", "no/such.safetensors"):
        with pytest.raises(UsageError, match=rf"no feature network '{name}'.*{listed}"):
            store.load_feature_network(name)
    with pytest.raises(FileError, match="a is missing from this installation"):
        store.load_feature_network("a")


HEADER = {"format": 1, "architecture": "feature-network", "kind": "plain", "arguments": {}, "image_size": 32}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "sphere-encoder"}, "architecture 'sphere-encoder'; a feature-network is needed"),
        ({"kind": "quantum"}, "this version reads format 1, kinds plain, residual"),
        ({"format": 2}, "this version reads format 1, kinds plain, residual"),
        ({"arguments": {"colour": "red"}}, "arguments.num_classes is missing"),
    ],
)
def test_a_header_of_another_kind_is_one_sentence(zoo: Path, change: dict[str, Any], sentence: str) -> None:
    weights.save_file(zoo / "a.safetensors", {"x": torch.zeros(1)}, HEADER | change)
    with pytest.raises((UsageError, FileError), match=sentence):
        store.load_feature_network("a")


def test_missing_and_odd_tensors_and_a_file_cut_short_are_one_sentence(zoo: Path) -> None:
    network = write(zoo / "a.safetensors")
    header = store.read_feature_header(zoo / "a.safetensors")
    state = network.state_dict()
    for bias in (state["head.bias"].to(torch.complex64), state["head.bias"] + float("nan")):
        weights.save_file(zoo / "b.safetensors", state | {"head.bias": bias}, header)
        with pytest.raises(FileError, match=r"b\.safetensors: 'head.bias' holds no weights"):
            store.load_feature_network("b")
    del state["head.bias"]
    weights.save_file(zoo / "b.safetensors", state, header)
    with pytest.raises(FileError, match="does not hold the tensors its header announces"):
        store.load_feature_network("b")
    whole = (zoo / "a.safetensors").read_bytes()
    (zoo / "c.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"c\.safetensors"):
        store.load_feature_network("c")


def test_fingerprint_follows_the_weights_and_not_the_file(zoo: Path) -> None:
    write(zoo / "a.safetensors", name="a")
    write(zoo / "b.safetensors", name="b")
    a, b = store.load_feature_network("a"), store.load_feature_network("b")
    assert store.fingerprint(a) == store.fingerprint(b)
    b.head.bias.data[0] += 1e-6  # type: ignore[union-attr,index]
    assert store.fingerprint(a) != store.fingerprint(b)
