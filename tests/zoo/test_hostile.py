"""Indexes, cards, receipts, the hub's answers and names of strangers: one sentence soon, whatever they say.

tests/hostile has any value at any key of an index.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
from huggingface_hub.hf_api import ModelInfo

from spherectl import zoo
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.settings import Settings, load_settings
from spherectl.zoo import entries, receipts
from spherectl.zoo import hub as client
from spherectl.zoo.repositories import Listing, choose, hub_place, parse_name
from tests.hub import COMMIT

pytestmark = pytest.mark.fast

MAX_S = 10
MAX_MESSAGE = 1_000  # characters: several mistakes, of which each is short
GOOD = {
    "name": "one",
    "kind": "model",
    "urls": ["https://example.org/one.safetensors"],
    "sha256": "0123456789abcdef" * 4,
    "bytes": 10,
    "licence": "MIT",
    "summary": "A model.",
    "channels": "rgb",
    "image_size": 32,
    "classes": 10,
}

# One of each type of JSON, and of each kind that means harm.
VALUES = [
    True, 0, -1, 10**30, 1.5, float("inf"), "", "x" * 100_000, "\x1b[31m", "../..", "a\0b", [], [1], [[]] * 10_000,
    {}, {"a": 1}, {"x" * 100_000: 1}, None, "\ud800",
]  # fmt: skip


def complaint(call: Callable[[], object]) -> str:
    """The sentence in which a call ends; empty if it does not."""
    message = ""
    try:
        call()
    except SpherectlError as error:
        message = error.message
    assert message.isprintable()
    assert len(message) < MAX_MESSAGE
    return message


def make(path: Path, what: str) -> None:
    """Something at a path that is no document."""
    match what:
        case "large":
            path.write_bytes(b"#" * (entries.MAX_INDEX + 1))
        case "bytes":
            path.write_bytes(b"\xff\xfe")
        case "deep":
            path.write_text("a." * 100_000 + "b = 1")


# Indexes and cards


def test_an_index_of_many_mistakes_tells_the_first(tmp_path):
    path = tmp_path / "index.toml"
    path.write_text(tomli_w.dumps({"entry": [{"name": f"x{i}"} for i in range(2_000)]}))
    assert "more" in complaint(lambda: zoo.read_index(path))
    for top in ({}, "x" * 100_000):
        path.write_text(tomli_w.dumps({"entry": top}))
        assert "index.toml is not valid: entry" in complaint(lambda: zoo.read_index(path))


@pytest.mark.parametrize("what", ["large", "bytes", "deep"])
def test_an_index_or_a_card_that_is_none_is_one_sentence_or_not_shown(tmp_path, monkeypatch, what):
    make(tmp_path / "index.toml", what)
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(tmp_path / "index.toml"))
    with pytest.raises(FileError, match=r"Cannot read the zoo index|There is no zoo index"):
        zoo.index()
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "index.toml").write_text(tomli_w.dumps({"entry": [GOOD]}))
    make(tmp_path / "zoo" / "one.md", what)
    (entry,) = zoo.read_index(tmp_path / "zoo" / "index.toml")
    assert zoo.read_card(entry) == "" or what == "deep"


def test_a_card_outside_and_a_model_that_is_a_pipe_are_not_here(tmp_path):
    entry = {key: value for key, value in GOOD.items() if key != "urls"} | {"file": "one.safetensors"}
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "index.toml").write_text(tomli_w.dumps({"entry": [entry]}))
    os.mkfifo(tmp_path / "zoo" / "one.safetensors")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "zoo" / "one.md").symlink_to(tmp_path / "secret")
    (one,) = zoo.read_index(tmp_path / "zoo" / "index.toml")
    assert (one.state(load_settings()), zoo.read_card(one)) == ("missing", "")
    assert "is missing" in zoo.verify(one, load_settings())
    with pytest.raises(FileError, match="is not a model: it is neither a file nor a folder"):
        zoo.find_model(str(tmp_path / "zoo" / "one.safetensors"))


def test_a_damaged_copy_of_an_index_comes_anew(host, monkeypatch):
    host.files["index.toml"] = tomli_w.dumps({"entry": [GOOD]}).encode()
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", f"{host.url}index.toml")
    assert "one" in zoo.index()
    (kept,) = load_settings().cache.rglob("index.toml")
    kept.unlink()
    os.mkfifo(kept)
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(SpherectlError, match=r"is not valid|Cannot read the zoo index|is not in the cache"):
        zoo.index()
    monkeypatch.delenv("SPHERECTL_OFFLINE")
    assert "one" in zoo.index()
    assert len(host.asked) == 2


# Receipts


RECEIPT = {
    "name": "hf:a/b",
    "source": "hf:a/b",
    "revision": COMMIT,
    "licence": "mit",
    "accepted": "mit",
    "bytes": 3,
    "files": {"": "0" * 64},
    "facts": {"classes": 10},
    "converted": {"sha256": "0" * 64, "bytes": 3},
}


def test_any_type_at_any_key_of_a_receipt_is_one_sentence(tmp_path):
    settings = Settings(cache=tmp_path)
    path = tmp_path / "zoo" / "hf" / "a--b.json"
    path.parent.mkdir(parents=True)
    for key, value in itertools.product(RECEIPT, [*VALUES, {"../../x": "0" * 64}, {"/etc/passwd": "0" * 64}, {"": 3}]):
        path.write_text(json.dumps({**RECEIPT, key: value}))
        message = complaint(lambda: receipts.verify_fetched("zoo/hf/a--b", settings))
        if "is damaged" in message:
            assert key in message or "is not JSON" in message
        else:
            assert type(value) is type(RECEIPT[key]) or value is None
    for content in (b"", b"[]", b"\xff", b"[" * 5000, b"x" * (receipts.MAX_RECEIPT + 1)):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a--b\.json.*"):
            receipts.load_receipt("zoo/hf/a--b", settings)


# The hub


ANSWER = {
    "id": "a/b",
    "sha": COMMIT,
    "cardData": {"license": "mit"},
    "siblings": [{"rfilename": "m.safetensors", "size": 3, "lfs": {"sha256": "0" * 64, "size": 3, "pointerSize": 9}}],
}


def test_any_type_at_any_key_of_the_hubs_answer_is_one_sentence(monkeypatch):
    """Of which huggingface_hub makes its objects without looking at it."""
    name = parse_name("hf:a/b")
    places = [(), ("sha",), ("cardData",), ("cardData", "license"), ("siblings",), ("siblings", 0)]
    places += [("siblings", 0, key) for key in ("rfilename", "size", "lfs")]
    places += [("siblings", 0, "lfs", key) for key in ("sha256", "size")]
    for place, value in itertools.product(places, VALUES):
        changed = table = copy.deepcopy(ANSWER)
        for part in place[:-1]:
            table = table[part]
        if place:
            table[place[-1]] = value
        answer = changed if place else value
        library = SimpleNamespace(model_info=lambda *_, answer=answer, **__: ModelInfo(**answer))
        monkeypatch.setattr(client, "api", lambda library=library: library)
        complaint(lambda: choose(client.list_files(name), name))
    monkeypatch.setattr(client, "api", lambda: SimpleNamespace(model_info=lambda *_, **__: ModelInfo(**ANSWER)))
    assert client.list_files(name).files == {"m.safetensors": client.HubFile(3, "0" * 64)}


def test_a_repository_of_many_files_is_looked_through_once():
    """Each folder with each file would be 400 million comparisons."""
    files = [f"{i}/cfg.json" for i in range(20_000)] + [f"{i}/ckpt/ep{i}.pth" for i in range(20_000)]
    listing = Listing("a/b", COMMIT, "mit", dict.fromkeys(files, client.HubFile(1, "")))
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"holds several models.*and 19,994 more"):
        choose(listing, parse_name("hf:a/b"))
    assert choose(listing, parse_name("hf:a/b/7")) == ("7/cfg.json", "7/ckpt/ep7.pth")
    assert time.monotonic() - began < MAX_S


@pytest.mark.parametrize(
    "text",
    ["hf:a", "hf:a/b/../c", "hf:a/b@", "hf:a/b@..", "hf:a--b/c", "hf:a/b\0", "hf:a/b/\x1b[31m", "hf:ä/b",
     "hf:a/b/" + "c" * 199, "hf:https://a:b@x/y"],
)  # fmt: skip
def test_a_name_of_the_hub_that_is_none_is_refused_unasked(hub, text):
    assert "Expected hf:user/repo" in (said := complaint(lambda: zoo.find_model(text))) or "is too long a name" in said
    assert len(said) < 400
    assert hub.asked == []


def test_names_of_the_hub_come_back_as_typed_and_never_share_a_place():
    names = ["hf:a/b", "hf:a/b/c", "hf:a/b@c", "hf:a/b-c", "hf:a-b/c", "hf:a/b/c@d", "hf:user/m.safetensors"]
    assert [str(parse_name(name)) for name in names] == names
    assert len({hub_place(parse_name(name)) for name in names}) == len(names)


# Names and runs
