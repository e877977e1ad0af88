"""`zoo add`: an index and cards that the zoo itself can read."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

import pytest

from spherectl import zoo
from spherectl.errors import FileError, UsageError
from spherectl.files import file_hash
from spherectl.settings import Settings, packaged
from spherectl.zoo import additions
from spherectl.zoo.additions import add

pytestmark = pytest.mark.fast


@pytest.fixture
def model() -> Path:
    return packaged("zoo") / "fashion-mnist.safetensors"


def test_a_model_is_copied_described_and_found(tmp_path, model):
    """Without a name it is called after its run."""
    index = tmp_path / "zoo" / "index.toml"
    entry = add(model, index, name="garments", licence="MIT")
    assert (entry.name, entry.file, entry.licence, entry.recipe) == (
        "garments",
        "garments.safetensors",
        "MIT",
        "fashion-mnist",
    )
    assert (entry.channels, entry.image_size, entry.classes) == ("grey", 32, 10)
    settings = Settings(zoo_index=(index,))
    found = zoo.find_model("garments", settings)
    assert file_hash(found.path) == file_hash(model)
    assert zoo.verify(zoo.find_entry("garments", settings), settings) == ""
    card = zoo.read_card(entry)
    assert card.startswith("# garments\n")
    assert "TODO" in card
    assert "sneaker" in card
    entry = add(packaged("zoo") / "fashion-scorer.safetensors", index, name="scorer")
    assert (entry.kind, entry.image_size, entry.classes) == ("features", 32, 10)
    run = tmp_path / "Blue Birds"
    run.mkdir()
    (run / "recipe.toml").touch()
    shutil.copy(model, run / "model.safetensors")
    assert add(run / "model.safetensors", index).name == "blue-birds"


def test_entries_are_appended_and_what_was_there_stays(tmp_path, model):
    index = tmp_path / "index.toml"
    add(model, index, name="one")
    index.write_text(f"# mine\n{index.read_text()}")
    (tmp_path / "one.md").write_text("my words")
    add(model, index, name="two", url="https://example.org/two.safetensors")
    text = index.read_text()
    assert text.startswith("# mine\n")
    first, second = tomllib.loads(text)["entry"]
    assert (first["name"], second["name"], second["urls"]) == ("one", "two", ["https://example.org/two.safetensors"])
    assert (tmp_path / "one.md").read_text() == "my words"
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["one.safetensors"]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"name": "one"}, UsageError, "has an entry one already"),
        ({"url": "http://example.org/m.safetensors"}, UsageError, "expected an https address"),
        ({"url": "https://example.org/m.zip"}, UsageError, r"archives \(\.zip\) are never unpacked"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path, model, options, kind, words):
    index = tmp_path / "index.toml"
    add(model, index, name="one")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(kind, match=words):
        add(model, index, **{"name": "new", **options})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_that_is_none_and_an_index_that_is_no_file_are_sentences(tmp_path, model):
    (tmp_path / "m.safetensors").write_bytes(b"no")
    with pytest.raises(FileError, match="is not a whole safetensors file"):
        add(tmp_path / "m.safetensors", tmp_path / "index.toml")
    os.mkfifo(tmp_path / "pipe")
    for place, words in ((tmp_path / "pipe", "it is not a regular file"), (tmp_path, "Is a directory")):
        with pytest.raises(FileError, match=f"Cannot read the zoo index {place}: {words}"):
            add(model, place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "pipe"]


@pytest.mark.parametrize("missing", [False, True], ids=["a folder", "no folder"])
def test_an_addition_that_fails_leaves_nothing(tmp_path, model, monkeypatch, missing):
    """The index is the last thing that is written, and here it cannot be."""
    index = tmp_path / "deep" / "zoo" / "index.toml" if missing else tmp_path / "index.toml"
    monkeypatch.setattr(additions, "write_text", refusing(index, additions.write_text))
    with pytest.raises(FileError, match="no room"):
        add(model, index, name="one")
    assert list(tmp_path.iterdir()) == []


def refusing(index: Path, write):
    def write_text(path: Path, text: str) -> None:
        if path == index:
            raise FileError("Cannot write the index: no room.")
        write(path, text)

    return write_text
