"""Indexes upon the zoo's own: from files and from addresses, kept for when there is no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spherectl import zoo
from spherectl.errors import FileError, SpherectlError
from spherectl.settings import load_settings
from spherectl.zoo import catalogue
from tests.serving import Host, sha256

pytestmark = pytest.mark.fast

ENTRY = """
[[entry]]
name = "{name}"
kind = "model"
{source}
licence = "MIT"
summary = "A model."
channels = "rgb"
image_size = 32
classes = 10
"""
MODEL = (
    b'\x48\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"spherectl":"{\\"format\\":1,\\"architecture\\":\\"x\\"}"}}  '
)


@pytest.fixture(autouse=True)
def _index(host, monkeypatch) -> None:
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", f"{host.url}zoo/index.toml")


def put(host: Host, *entries: tuple[str, str]) -> None:
    text = "\n".join(ENTRY.format(name=name, source=source) for name, source in entries)
    host.files["zoo/index.toml"] = text.encode()


def own_names() -> list[str]:
    return [name for name in zoo.index() if name in ("one", "two", "three")]


def age(days: float) -> None:
    (kept,) = (load_settings().cache / "zoo" / "indexes").rglob("index.toml")
    seconds = kept.stat().st_mtime - days * 24 * 3600
    os.utime(kept, (seconds, seconds))


def test_a_folder_on_a_web_server_is_a_zoo(host):
    """The same index that works beside its files: they are remote to whoever reads it by its address."""
    put(host, ("one", f'file = "deep/one.safetensors"\nsha256 = "{sha256(MODEL)}"\nbytes = {len(MODEL)}'))
    host.files |= {"zoo/deep/one.safetensors": MODEL, "zoo/one.md": b"# One\n"}
    entry = zoo.find_entry("one")
    assert (entry.urls, entry.state(load_settings())) == ((f"{host.url}zoo/deep/one.safetensors",), "remote")
    assert zoo.read_card(entry) == "# One\n"
    assert zoo.fetch(entry).read_bytes() == MODEL
    assert host.paths().count("zoo/one.md") == 1


def test_it_is_asked_for_once_a_day(host):
    put(host, ("one", 'hub = "user/repo"'))
    assert own_names() == own_names() == ["one"]
    assert len(host.asked) == 1
    put(host, ("two", 'hub = "user/repo"'))
    age(days=0.9)
    assert own_names() == ["one"]
    age(days=0.2)
    assert own_names() == ["two"]
    put(host, ("three", 'hub = "user/repo"'))
    assert "three" in catalogue.index(refresh=True)
    assert len(host.asked) == 3


def test_it_can_be_used_offline_and_while_its_server_is_away(host, monkeypatch):
    put(host, ("one", 'hub = "user/repo"'))
    assert own_names() == ["one"]
    age(days=2)
    host.answers["zoo/index.toml"] = [503]
    assert own_names() == ["one"]
    with pytest.raises(SpherectlError, match=r"Cannot fetch the zoo index from .*: the server says 503"):
        catalogue.index(refresh=True)
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    asked = len(host.asked)
    assert own_names() == ["one"]
    assert len(host.asked) == asked
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", f"{host.url}zoo/other.toml")
    with pytest.raises(SpherectlError, match="is not in the cache, and SPHERECTL_OFFLINE says to stay offline"):
        zoo.index()


def test_a_new_state_that_is_not_valid_does_not_replace_one_that_is(host, monkeypatch):
    put(host, ("one", 'hub = "user/repo"'))
    assert own_names() == ["one"]
    host.files["zoo/index.toml"] = b"[[entry]"
    with pytest.raises(FileError, match="Cannot read the zoo index http"):
        catalogue.index(refresh=True)
    assert own_names() == ["one"]


def test_files_and_addresses_are_stacked_in_one_variable(host, tmp_path, monkeypatch):
    put(host, ("two", 'hub = "user/repo"'))
    for name in ("one", "three"):
        (tmp_path / f"{name}.toml").write_text(ENTRY.format(name=name, source='hub = "user/repo"'))
    places = [str(tmp_path / "one.toml"), f"{host.url}zoo/index.toml", str(tmp_path / "three.toml")]
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", os.pathsep.join(places))
    assert load_settings().zoo_index == (Path(places[0]), places[1], Path(places[2]))
    assert own_names() == ["one", "two", "three"]


def test_an_address_of_an_index_that_is_none_is_a_sentence(monkeypatch):
    for place, words in (
        ("http://example.org/index.toml", "expected an https address"),
        ("https://example.org/zoo.tar.gz", r"archives \(\.tar\.gz\) are never unpacked here"),
    ):
        monkeypatch.setenv("SPHERECTL_ZOO_INDEX", place)
        with pytest.raises(FileError, match=words):
            zoo.index()


def test_an_index_leads_to_paths_of_its_folder_and_if_encrypted_to_encrypted_addresses_alone(host, tmp_path):
    put(host, ("one", 'file = "../one.safetensors"'))
    with pytest.raises(FileError, match=f"{host.url}zoo/index.toml.*expected a path inside the folder"):
        zoo.index()
    text = ENTRY.format(name="one", source='urls = ["http://127.0.0.1:9/one.safetensors"]')
    with pytest.raises(FileError, match="entry one leads from https to http"):
        catalogue._check_remote(text, "https://example.org/index.toml", tmp_path)
    (entry,) = catalogue._check_remote(text, "http://127.0.0.1:9/index.toml", tmp_path)
    assert entry.urls == ("http://127.0.0.1:9/one.safetensors",)
