"""Feature networks as files: round trip, names, and what each bad file is told."""

from __future__ import annotations

import os
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
def test_a_network_comes_back_as_it_was_frozen_and_in_eval_mode(kind: str, zoo: Path) -> None:
    network = write(zoo / "a.safetensors", kind, accuracy=0.5)
    images = torch.rand(2, 3, 16, 16)
    for where in ("a", zoo / "a.safetensors", str(zoo / "a.safetensors")):
        loaded = store.load_feature_network(where)
        assert torch.equal(loaded(images), network(images))
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    header = store.read_feature_header(zoo / "a.safetensors")
    assert (header["architecture"], header["kind"], header["accuracy"]) == ("feature-network", kind, 0.5)


def test_a_zoo_name_goes_before_a_file_of_that_name(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(zoo / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"something else")
    assert store.find_feature_network("a") == zoo / "a.safetensors"
    assert store.find_feature_network("./a") == Path("a")


def test_an_unknown_name_lists_the_feature_networks_and_nothing_else(zoo: Path) -> None:
    listed = r"Those in the zoo: a, b, c, emoji-features, emoji-scorer, fashion-features, fashion-scorer\."
    for name in ("third", "m", "no/such.safetensors"):
        with pytest.raises(UsageError, match=rf"no feature network '{name}'.*{listed}") as caught:
            store.load_feature_network(name)
        assert caught.value.exit_code == 2


def test_an_entry_whose_file_is_missing_is_one_sentence(zoo: Path) -> None:
    with pytest.raises(FileError, match=r"a is missing from this installation"):
        store.load_feature_network("a")


def test_a_model_that_draws_is_refused_by_its_architecture(zoo: Path) -> None:
    weights.save_file(zoo / "a.safetensors", {"x": torch.zeros(1)}, {"format": 1, "architecture": "sphere-encoder"})
    with pytest.raises(UsageError, match="architecture 'sphere-encoder'; a feature-network is needed"):
        store.load_feature_network("a")


@pytest.mark.parametrize("change", [{"kind": "quantum"}, {"format": 2}])
def test_a_file_of_a_later_version_is_refused_kindly(zoo: Path, change: dict[str, Any]) -> None:
    header = {"format": 1, "architecture": "feature-network", "kind": "plain", "arguments": {}, "image_size": 32}
    weights.save_file(zoo / "a.safetensors", {"x": torch.zeros(1)}, header | change)
    with pytest.raises(UsageError, match="this version reads format 1, kinds plain, residual"):
        store.load_feature_network("a")


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"format": 1, "architecture": "feature-network", "kind": "plain"}, "lacks arguments, image_size"),
        (
            {
                "format": 1,
                "architecture": "feature-network",
                "kind": "plain",
                "arguments": {"colour": "red"},
                "image_size": 32,
            },
            "arguments.num_classes is missing",
        ),
    ],
)
def test_a_header_that_does_not_fit_is_one_sentence(zoo: Path, header: dict[str, Any], sentence: str) -> None:
    weights.save_file(zoo / "a.safetensors", {"x": torch.zeros(1)}, header)
    with pytest.raises(FileError, match=sentence):
        store.load_feature_network("a")


def test_missing_tensors_and_a_file_cut_short_are_one_sentence(zoo: Path) -> None:
    network = write(zoo / "a.safetensors")
    header = store.read_feature_header(zoo / "a.safetensors")
    state = network.state_dict()
    del state["head.bias"]
    weights.save_file(zoo / "b.safetensors", state, header)
    with pytest.raises(FileError, match="does not hold the tensors its header announces"):
        store.load_feature_network("b")
    whole = (zoo / "a.safetensors").read_bytes()
    (zoo / "c.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"c\.safetensors"):
        store.load_feature_network("c")


@pytest.mark.parametrize("value", [None, True, -1, 0, 10**9, "x" * 20_000, [], [[1]], {"a": 1}])
@pytest.mark.parametrize("key", ["kind", "arguments", "image_size", "class_names", "accuracy", "widths", "num_classes"])
def test_any_json_at_any_key_is_one_sentence(key: str, value: Any, zoo: Path) -> None:
    """But for what a network may lack: its name, its accuracy, names of classes."""
    network = write(zoo / "a.safetensors")
    header = store.read_feature_header(zoo / "a.safetensors")
    if key in header["arguments"]:
        header["arguments"][key] = value
    else:
        header[key] = value
    weights.save_file(zoo / "b.safetensors", network.state_dict(), header)
    if (key, value) in (("accuracy", None), ("accuracy", 0), ("class_names", [])):
        store.load_feature_network("b")
        return
    with pytest.raises((FileError, UsageError)) as caught:
        store.load_feature_network("b")
    assert len(caught.value.message) < 500 + len(str(zoo))


@pytest.mark.parametrize("change", [torch.complex64, torch.int64, float("nan")])
def test_weights_of_another_kind_are_one_sentence(change: torch.dtype | float, zoo: Path) -> None:
    network = write(zoo / "a.safetensors")
    header, state = store.read_feature_header(zoo / "a.safetensors"), network.state_dict()
    state["head.bias"] = (
        state["head.bias"].to(change) if isinstance(change, torch.dtype) else state["head.bias"] + change
    )
    weights.save_file(zoo / "b.safetensors", state, header)
    with pytest.raises(FileError, match=r"b\.safetensors"):
        store.load_feature_network("b")


def test_a_pipe_is_not_waited_for(zoo: Path) -> None:
    os.mkfifo(zoo / "pipe.safetensors")
    with pytest.raises(UsageError, match="There is no feature network"):
        store.load_feature_network(zoo / "pipe.safetensors")
    with pytest.raises(FileError, match="not a regular file"):
        store.read_feature_header(zoo / "pipe.safetensors")


def test_fingerprint_follows_the_weights_and_not_the_file(zoo: Path) -> None:
    write(zoo / "a.safetensors", name="a")
    write(zoo / "b.safetensors", name="b")
    a, b = store.load_feature_network("a"), store.load_feature_network("b")
    assert store.fingerprint(a) == store.fingerprint(b)
    b.head.bias.data[0] += 1e-6  # type: ignore[union-attr,index]
    assert store.fingerprint(a) != store.fingerprint(b)
