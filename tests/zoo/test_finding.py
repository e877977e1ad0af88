"""The zoo: what an index may say, and which model or recipe a name means."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from spherectl import zoo
from spherectl.errors import FileError, UsageError
from spherectl.model.formats.header import read_header
from spherectl.settings import Settings, load_settings, packaged
from spherectl.zoo import Found, catalogue, find_model, find_recipe, index, newest_run, read_index

pytestmark = pytest.mark.fast

MODEL = {
    "name": "one",
    "kind": "model",
    "file": "one.safetensors",
    "licence": "MIT",
    "summary": "A model.",
    "channels": "rgb",
    "image_size": 32,
    "classes": 10,
}
SHA256 = "0123456789abcdef" * 4
REMOTE = {**{key: value for key, value in MODEL.items() if key != "file"}, "name": "far", "sha256": SHA256}


SHIPPED = read_index(packaged("zoo") / "index.toml")


def write_index(folder: Path, *entries: dict) -> Path:
    """An index.toml of those entries; JSON scalars and lists of strings are valid TOML values."""
    tables = ["\n".join(["[[entry]]", *(f"{key} = {json.dumps(value)}" for key, value in e.items())]) for e in entries]
    path = folder / "index.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(tables), encoding="utf-8")
    return path


def write_model(path: Path, header: dict | None = None) -> Path:
    """A safetensors file without tensors, its header written by hand: 8 bytes of length, then JSON."""
    text = json.dumps({"__metadata__": {"spherectl": json.dumps(header or {})}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


@pytest.fixture
def own_zoo(tmp_path, monkeypatch) -> Path:
    """A zoo of one default model, one feature network, a remote model and one that is only known of."""
    folder = tmp_path / "zoo"
    write_index(
        folder,
        {**MODEL, "default": True},
        {**MODEL, "name": "one-features", "kind": "features", "file": "one-features.safetensors"},
        {**REMOTE, "urls": ["https://example.org/far.safetensors"]},
        {**REMOTE, "name": "rumour", "page": "https://example.org/rumour"},
    )
    write_model(folder / "one.safetensors")
    monkeypatch.setattr(catalogue, "packaged", lambda _: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def write_run(name: str, minutes_ago: int, recipe: str = "[run]\nseed = 0\n") -> Path:
    """A run in ./runs whose model was written so long ago."""
    run = Path("runs") / name
    model = write_model(run / "model.safetensors")
    (run / "recipe.toml").write_text(recipe, encoding="utf-8")
    os.utime(model, (1_000_000 - 60 * minutes_ago,) * 2)
    return run


# The index that is shipped


@pytest.mark.parametrize("entry", [entry for entry in SHIPPED if entry.file], ids=lambda entry: entry.name)
def test_each_shipped_file_is_what_the_index_says(entry):
    settings = load_settings()
    assert zoo.verify(entry, settings) == ""
    header = read_header(entry.path(settings))
    assert header["architecture"] == {"model": "sphere-encoder", "features": "feature-network"}[entry.kind]
    assert len(header["class_names"]) == entry.classes
    if entry.kind == "model":
        assert header["recipe"]["name"] == entry.recipe
        assert header["recipe"]["model"]["image_size"] == entry.image_size
        assert header["recipe"]["data"]["channels"] == entry.channels
    assert entry.card.is_file()


def test_the_shipped_zoo_is_whole():
    """One default, recipes that there are, an entry for each file and card."""
    entries, folder = index(), packaged("zoo")
    assert [entry.name for entry in entries.values() if entry.default] == ["fashion-mnist"]
    recipes = {path.stem for path in packaged("recipes").glob("*.toml")}
    assert {entry.recipe for entry in entries.values() if entry.recipe} <= recipes
    assert {path.name for path in folder.glob("*.safetensors")} <= {entry.file for entry in entries.values()}
    assert {path.stem for path in folder.glob("*.md")} <= set(entries) | {"README"}


# What an index may say


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (MODEL, {"file": "../one.safetensors"}, "entry one, file: expected a path inside the folder"),
        (MODEL, {"kind": "encoder"}, "entry one, kind: expected 'model' or 'features'"),
        (MODEL, {"licenze": "MIT"}, "entry one, licenze: unknown key"),
        (MODEL, {"kind": "features", "default": True}, "entry one: default: only an embedded model can be the default"),
        (MODEL, {"file": "one.zip"}, "entry one, file: archives (.zip) are never unpacked here; expected the model"),
        (REMOTE, {}, "entry far: expected one of file, urls, published, hub, page"),
        (REMOTE, {"urls": ["http://example.org/w"]}, "entry far, urls: expected an https address"),
        (REMOTE, {"hub": "user/../../etc"}, "entry far, hub: "),
        (REMOTE, {"hub": "user/repo"}, "entry far: published and hub are for models, and sha256 and bytes for one"),
    ],
)
def test_a_mistake_in_an_index_is_named(tmp_path, base, change, words):
    with pytest.raises(FileError) as caught:
        read_index(write_index(tmp_path, base | change))
    assert words in caught.value.message
    assert str(tmp_path / "index.toml") in caught.value.message


@pytest.mark.parametrize(
    ("published", "files", "words"),
    [
        ("https://example.org/x", ["cfg.json", "ckpt/ep0001.pth"], "expected the address of a folder, ending in /"),
        ("https://example.org/x/", ["cfg.json", "ckpt/ep1.pth", "ckpt/ep2.pth"], "files: expected"),
        ("https://example.org/x/", ["cfg.json", "../ckpt/ep0001.pth"], "expected a path inside the folder"),
    ],
)
def test_a_published_folder_is_named_whole_and_safely(tmp_path, published, files, words):
    bare = {key: value for key, value in REMOTE.items() if key != "sha256"}
    path = write_index(tmp_path, bare | {"published": published})
    with path.open("a") as index_file:
        index_file.write("\nfiles = [" + ", ".join(f'{{path = "{name}"}}' for name in files) + "]\n")
    with pytest.raises(FileError, match=words):
        read_index(path)


def test_a_link_may_not_lead_out_of_the_folder(tmp_path):
    outside = write_model(tmp_path / "outside.safetensors")
    path = write_index(tmp_path / "zoo", MODEL)
    (tmp_path / "zoo" / "one.safetensors").symlink_to(outside)
    with pytest.raises(FileError, match="entry one, file: expected a file inside the index's folder, got a link out"):
        read_index(path)


def test_further_indexes_find_their_files_beside_themselves_and_repeat_no_name(own_zoo, tmp_path):
    more = write_index(tmp_path / "more", MODEL | {"name": "two", "file": "deep/two.safetensors"})
    file = write_model(tmp_path / "more" / "deep" / "two.safetensors")
    settings = Settings(zoo_index=(more,))
    assert list(index(settings)) == ["one", "one-features", "far", "rumour", "two"]
    assert find_model("two", settings).path == file
    write_index(tmp_path / "more", MODEL | {"name": "two"}, MODEL)
    with pytest.raises(FileError, match=f"{more}: the name one occurs twice"):
        index(settings)


# Which model a name means


def test_without_a_name_the_setting_goes_first_then_the_newest_run_then_the_zoos_default(own_zoo, monkeypatch):
    found = find_model()
    assert (found.path, found.name, found.kind) == (own_zoo / "one.safetensors", "one", "zoo")
    assert found.reason == "model: one (the zoo's default; no run in runs has a model yet)"
    write_run("b", minutes_ago=5)
    newest = write_run("a", minutes_ago=1)
    assert find_model() == Found(newest / "model.safetensors", "a", "run", f"model: {newest} (newest run)")
    monkeypatch.setenv("SPHERECTL_MODEL", "one")
    assert find_model().reason == "model: one (from SPHERECTL_MODEL)"


def test_a_run_counts_if_it_has_a_model_unless_its_recipe_says_no(own_zoo):
    assert newest_run(Path("runs")) is None
    for minute, recipe in enumerate(["[run]\ndefault = true\n", "", "run = 3\n", "broken ["]):
        expected = write_run(f"run{minute}", 99 - minute, recipe=recipe)
        assert newest_run(Path("runs")) == expected
    write_run("debug", minutes_ago=1, recipe="[run]\ndefault = false\n")
    (Path("runs") / "started").mkdir()
    (Path("runs") / "stray.safetensors").touch()
    assert newest_run(Path("runs")) == expected


def test_a_zoo_name_goes_before_a_path_and_a_run_is_its_folder_or_its_model(own_zoo):
    write_model(Path("one") / "model.safetensors")
    assert (find_model("one").kind, find_model("./one").kind) == ("zoo", "run")
    run = write_run("a", minutes_ago=1)
    for text in (str(run), str(run / "model.safetensors")):
        assert find_model(text) == Found(run / "model.safetensors", "a", "run", f"model: {run} (as asked for)")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("on", UsageError, "There is no model 'on': neither the zoo nor a path has that name. Did you mean one"),
        ("xyz", UsageError, "There are: one, far, rumour, runs/a."),
        ("one-features", UsageError, "one-features is a feature network for losses and scores; it generates no images"),
        ("far", UsageError, "far is not on this machine yet. `spherectl zoo fetch far` brings it."),
        ("rumour", UsageError, "rumour is only known of: the zoo has no address to fetch it from"),
        ("runs/new", UsageError, "The run runs/new has no model yet: it gets one at its first checkpoint."),
        ("runs", FileError, "The folder runs is no model: expected model.safetensors (a run), or cfg.json and ckpt/"),
        ("zoo.tar.gz", FileError, "zoo.tar.gz is not a model: archives (.tar.gz) are never unpacked here"),
        ("weights.pth", FileError, "expected a .safetensors file or a folder. Give the folder that holds cfg.json"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_a_sentence_with_the_next_step(own_zoo, text, kind, words):
    write_run("a", minutes_ago=1)
    (Path("runs") / "new").mkdir()
    (Path("runs") / "new" / "recipe.toml").touch()
    Path("weights.pth").touch()
    Path("zoo.tar.gz").touch()
    with pytest.raises(kind) as caught:
        find_model(text)
    assert words in str(caught.value)


def test_an_embedded_file_must_be_there_whole(own_zoo):
    (own_zoo / "one.safetensors").unlink()
    with pytest.raises(FileError, match="The zoo's one is missing from this installation"):
        find_model()
    write_index(own_zoo, MODEL | {"default": True, "bytes": 7})
    (own_zoo / "one.safetensors").write_bytes(b"123456")
    with pytest.raises(FileError, match="has 6 bytes, the zoo's index says 7; it is damaged"):
        find_model()


# Fetching, verifying, reading


def test_verify_compares_size_and_hash(own_zoo):
    file = own_zoo / "one.safetensors"
    digest, size = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size

    def verify(**facts) -> str:
        write_index(own_zoo, MODEL | facts)
        return zoo.verify(zoo.find_entry("one"), load_settings())

    assert verify(sha256=digest, bytes=size) == ""
    assert f"the index says {size + 1} and {digest}" in verify(sha256=digest, bytes=size + 1)
    assert f"and SHA-256 {digest}; the index says" in verify(sha256=SHA256, bytes=size)
    assert verify() == f"the index does not say its hash and size (sha256 = {digest!r}, bytes = {size})"
    file.unlink()
    assert verify(sha256=digest, bytes=size) == f"{file} is missing"


# Recipes


def test_a_packaged_recipe_is_found_from_anywhere_unless_there_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("imagenet256", "imagenet256.toml", "./recipes/imagenet256.toml"):
        assert find_recipe(text) == packaged("recipes") / "imagenet256.toml"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "imagenet256.toml").touch()
    (tmp_path / "cifar10").mkdir()  # a data set of that name is not a recipe
    assert find_recipe("recipes/imagenet256.toml") == Path("recipes/imagenet256.toml")
    assert find_recipe("cifar10") == packaged("recipes") / "cifar10.toml"
    with pytest.raises(UsageError, match=r"There is no recipe 'imagnet256'\. Did you mean imagenet256"):
        find_recipe("imagnet256")
