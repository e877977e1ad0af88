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


def test_one_that_was_never_here_is_a_sentence_offline(host, monkeypatch):
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(
        SpherectlError, match="is not in the cache, and SPHERECTL_OFFLINE says to stay offline"
    ) as caught:
        zoo.index()
    assert "spherectl zoo ls" in caught.value.hint


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


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ("https://a.org/i.toml:~/x.toml", ("https://a.org/i.toml", Path.home() / "x.toml")),
        ("https://a.org:8443/i.toml:https://b.org/i.toml", ("https://a.org:8443/i.toml", "https://b.org/i.toml")),
        ("/a/i.toml:http://[::1]:80/i.toml::/b", (Path("/a/i.toml"), "http://[::1]:80/i.toml", Path("/b"))),
    ],
)
@pytest.mark.skipif(os.pathsep != ":", reason="where paths are separated by ; nothing is ambiguous")
def test_the_colons_of_an_address_separate_nothing(monkeypatch, value, places):
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", value)
    found = load_settings().zoo_index
    assert [place if isinstance(place, str) else place.name for place in found] == [
        place if isinstance(place, str) else place.name for place in places
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('file = "../one.safetensors"', "expected a path inside the folder, got '../one.safetensors'"),
        ('file = "one.zip"', r"archives \(\.zip\) are never unpacked here"),
        ('urls = ["http://example.org/one.safetensors"]', "expected an https address"),
        ('hub = "user/repo"\nsha256 = "12"', "sha256: expected 64 hexadecimal digits"),
    ],
)
def test_what_an_address_may_not_say(host, source, words):
    put(host, ("one", source))
    with pytest.raises(FileError, match=words) as caught:
        zoo.index()
    assert f"{host.url}zoo/index.toml" in caught.value.message


def test_an_encrypted_index_leads_to_encrypted_addresses_alone(tmp_path):
    text = ENTRY.format(name="one", source='urls = ["http://127.0.0.1:9/one.safetensors"]')
    with pytest.raises(FileError, match="entry one leads from https to http"):
        catalogue._check_remote(text, "https://example.org/index.toml", tmp_path)
    (entry,) = catalogue._check_remote(text, "http://127.0.0.1:9/index.toml", tmp_path)
    assert entry.urls == ("http://127.0.0.1:9/one.safetensors",)
