"""Indexes, cards, notes, runs and names of strangers: one sentence soon, whatever they say."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spherectl import zoo
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.settings import Settings, load_settings
from spherectl.zoo import catalogue, entries, hub, receipts
from spherectl.zoo.download import hub_place
from tests.serving import COMMIT, Host, hosting

pytestmark = pytest.mark.fast

MAX_S = 10
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
    "scores": [{"metric": "kid", "value": 1.5, "command": "spherectl evaluate one"}],
}

# One of each type of JSON and TOML, and of each kind that means harm.
VALUES = [
    True, 0, -1, 10**30, 1.5, float("inf"), "", "x" * 100_000, "\x1b[31m", "../..", "a\0b", [], [1], [[]] * 10_000,
    {}, {"a": 1}, {"x" * 100_000: 1},
]  # fmt: skip


MAX_MESSAGE = 1_000  # characters: several mistakes, of which each is short


def complaint(call: Callable[[], object]) -> str:
    """The sentence in which a call ends; empty if it does not."""
    try:
        call()
    except SpherectlError as error:
        return error.message
    return ""


def as_toml(table: dict) -> str:
    import tomli_w

    return tomli_w.dumps(table)


@pytest.mark.parametrize("key", GOOD)
def test_any_type_at_any_key_of_an_index_is_one_sentence(tmp_path, key):
    """Or the index is valid, and everything that is shown of it can be shown."""
    for value in VALUES:
        path = tmp_path / "index.toml"
        path.write_text(as_toml({"entry": [{**GOOD, key: value}]}))
        began = time.monotonic()
        message = complaint(lambda path=path: [entry.state(load_settings()) for entry in zoo.read_index(path)])
        assert time.monotonic() - began < MAX_S
        assert message.isprintable()
        assert len(message) < MAX_MESSAGE
        if message:
            assert "entry one" in message or key == "name"
            assert key in message
        else:
            assert type(value) is type(GOOD[key])


@pytest.mark.parametrize("top", [*VALUES[:12], [{}], [3], [[{}]]], ids=lambda value: str(value)[:20])
def test_any_type_in_the_place_of_the_entries_is_one_sentence(tmp_path, top):
    path = tmp_path / "index.toml"
    path.write_text(as_toml({"entry": top}))
    if top == []:
        assert zoo.read_index(path) == ()
        return
    with pytest.raises(FileError, match=r"index\.toml is not valid: entry") as caught:
        zoo.read_index(path)
    assert len(caught.value.message) < MAX_MESSAGE


def test_an_index_of_many_mistakes_tells_the_first(tmp_path):
    path = tmp_path / "index.toml"
    path.write_text(as_toml({"entry": [{"name": f"x{i}"} for i in range(2_000)]}))
    with pytest.raises(FileError, match=r"; .* and 11,995 more|and [0-9,]+ more") as caught:
        zoo.read_index(path)
    assert len(caught.value.message) < MAX_MESSAGE


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "large", "bytes", "deep"])
def test_an_index_that_is_none_is_one_sentence(tmp_path, monkeypatch, what):
    path = tmp_path / "index.toml"
    make(path, what)
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(path))
    with pytest.raises(FileError, match=r"Cannot read the zoo index|There is no zoo index"):
        zoo.index()


def make(path: Path, what: str) -> None:
    """Something at a path that is no document."""
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(path)
        case "large":
            path.write_bytes(b"#" * (entries.MAX_INDEX + 1))
        case "bytes":
            path.write_bytes(b"\xff\xfe")
        case "deep":
            path.write_text("a." * 100_000 + "b = 1")


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "large", "bytes", "outside"])
def test_a_card_that_is_none_is_not_shown(tmp_path, monkeypatch, what):
    index = tmp_path / "zoo" / "index.toml"
    index.parent.mkdir()
    index.write_text(as_toml({"entry": [GOOD]}))
    card = index.with_name("one.md")
    if what == "outside":
        (tmp_path / "secret").write_text("secret")
        card.symlink_to(tmp_path / "secret")
    else:
        make(card, what)
    (entry,) = zoo.read_index(index)
    assert zoo.read_card(entry) == ""


def test_a_model_that_is_a_pipe_is_not_here(tmp_path, monkeypatch):
    (tmp_path / "index.toml").write_text(
        as_toml({"entry": [{**{k: v for k, v in GOOD.items() if k != "urls"}, "file": "one.safetensors"}]})
    )
    os.mkfifo(tmp_path / "one.safetensors")
    (entry,) = zoo.read_index(tmp_path / "index.toml")
    settings = load_settings()
    assert entry.state(settings) == "missing"
    assert "is missing" in zoo.verify(entry, settings)
    with pytest.raises(FileError, match="is not a model: it is neither a file nor a folder"):
        zoo.find_model(str(tmp_path / "one.safetensors"))


@pytest.mark.parametrize("content", ["pipe", "[[entry]", "a = 3", "a." * 50_000, "x" * (entries.MAX_INDEX + 1)])
def test_a_damaged_copy_of_an_index_comes_anew(monkeypatch, content):
    with hosting() as host:
        host.files["index.toml"] = as_toml({"entry": [GOOD]}).encode()
        monkeypatch.setenv("SPHERECTL_ZOO_INDEX", f"{host.url}index.toml")
        assert "one" in zoo.index()
        (kept,) = load_settings().cache.rglob("index.toml")
        kept.unlink()
        os.mkfifo(kept) if content == "pipe" else kept.write_text(content)
        monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
        with pytest.raises(SpherectlError, match=r"is not valid|Cannot read the zoo index|is not in the cache"):
            zoo.index()
        monkeypatch.delenv("SPHERECTL_OFFLINE")
        assert "one" in zoo.index()
        assert len(host.asked) == 2


NOTE = {
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


@pytest.mark.parametrize("key", NOTE)
def test_any_type_at_any_key_of_a_note_is_one_sentence(tmp_path, key):
    settings = Settings(cache=tmp_path)
    path = tmp_path / "zoo" / "hf" / "a--b.json"
    path.parent.mkdir(parents=True)
    for value in [*VALUES, None, {"../../x": "0" * 64}, {"/etc/passwd": "0" * 64}, {"": 3}]:
        path.write_text(json.dumps({**NOTE, key: value}))
        message = complaint(lambda: receipts.verify_fetched("zoo/hf/a--b", settings))
        if "is damaged" in message:
            assert key in message or "is not JSON" in message
        else:
            assert type(value) is type(NOTE[key]) or value is None
        assert message.isprintable()
        assert len(message) < MAX_MESSAGE


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"[" * 5000, b"x" * (receipts.MAX_NOTE + 1)])
def test_a_note_that_is_none_is_one_sentence(tmp_path, content):
    path = tmp_path / "zoo" / "one.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"one\.json.*"):
        receipts.load_note("zoo/one", Settings(cache=tmp_path))


ANSWER = {
    "sha": COMMIT,
    "cardData": {"license": "mit"},
    "siblings": [{"rfilename": "model.safetensors", "size": 3, "lfs": {"sha256": "0" * 64, "size": 3}}],
}


@pytest.fixture
def asked(monkeypatch) -> Iterator[Host]:
    """A hub that answers what a test puts under `answer`."""
    with hosting() as host:
        monkeypatch.setenv("HF_ENDPOINT", host.url)
        yield host


def answer(host: Host, document: object) -> hub.Listing:
    host.files["api/models/a/b/revision/main"] = json.dumps(document).encode()
    return hub.list_files(hub.parse_name("hf:a/b"))


def test_any_type_at_any_key_of_the_hubs_answer_is_one_sentence(asked):
    places = [("sha",), ("cardData",), ("cardData", "license"), ("siblings",), ("siblings", 0)]
    places += [("siblings", 0, key) for key in ("rfilename", "size", "lfs")]
    places += [("siblings", 0, "lfs", key) for key in ("sha256", "size")]
    assert answer(asked, ANSWER).files == {"model.safetensors": hub.HubFile(3, "0" * 64)}
    for place, value in itertools.product(places, [*VALUES, None, "\ud800"]):
        changed = json.loads(json.dumps(ANSWER))
        table = changed
        for part in place[:-1]:
            table = table[part]
        table[place[-1]] = value
        message = complaint(lambda changed=changed: use(answer(asked, changed)))
        assert message.isprintable()
        assert len(message) < MAX_MESSAGE


def use(listing: hub.Listing) -> None:
    """As a fetch does."""
    hub.choose(listing, hub.parse_name("hf:a/b"))
    for path in listing.files:
        listing.url(path)


@pytest.mark.parametrize("document", [3, [], None, "x"], ids=str)
def test_an_answer_of_another_kind_is_one_sentence(asked, document):
    with pytest.raises(FileError, match="does not answer as the Hugging Face hub does"):
        answer(asked, document)


def test_a_repository_of_many_files_is_looked_through_once(asked):
    """Each folder with each file would be 400 million comparisons."""
    files = [f"{i}/cfg.json" for i in range(20_000)] + [f"{i}/ckpt/ep{i}.pth" for i in range(20_000)]
    began = time.monotonic()
    listing = answer(asked, {"sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
    with pytest.raises(UsageError, match=r"holds several models.*and 19,994 more"):
        hub.choose(listing, hub.parse_name("hf:a/b"))
    assert hub.choose(listing, hub.parse_name("hf:a/b/7")) == ("7/cfg.json", "7/ckpt/ep7.pth")
    assert time.monotonic() - began < MAX_S


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:///", "hf:a", "hf:a/", "hf:/b", "hf:../..", "hf:a/..", "hf:a/b/..", "hf:a/b/../c", "hf:a/b@",
     "hf:a/b@/x", "hf:a--b/c",
     "hf:a/b\0", "hf:a/b\n", "hf:a/\ud800", "hf:a/b/\x1b[31m", "hf:ä/b", "hf:a/b@é", "hf:a/b/c\\d",
     "hf:a/" + "b" * 5000, "hf:a/b/" + "c" * 199, "hf:a/b/" + "d/" * 5000, "hf:https://a:b@x/y"],
)  # fmt: skip
def test_a_name_of_the_hub_that_is_none_is_refused_unasked(asked, text):
    with pytest.raises(UsageError, match=r"Expected hf:user/repo|is too long a name") as caught:
        zoo.find_model(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert asked.asked == []


def test_two_names_of_the_hub_never_share_a_place():
    names = ["hf:a/b", "hf:a/b/c", "hf:a/b@c", "hf:a/b-c", "hf:a-b/c", "hf:a/b/c@d"]
    assert len({hub_place(hub.parse_name(name)) for name in names}) == len(names)


@pytest.mark.parametrize(
    "text",
    ["~nouser/x", "a\0b", "\udc80\udcff", "\ud800", "x" * 300, "x/" * 5000, "", " ", "\x1b[31mred", "https://a:b@x/y",
     "http://[::1", "/dev/null", "/dev/zero", "/proc/self/mem/x", "**", "x" * 1_000_000],
    ids=lambda text: ascii(text)[:20],
)  # fmt: skip
def test_a_name_of_no_model_is_one_sentence(text):
    began = time.monotonic()
    with pytest.raises(SpherectlError) as caught:
        zoo.find_model(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    with pytest.raises(UsageError):
        zoo.find_recipe(text)
    with pytest.raises(UsageError):
        zoo.find_entry(text)
    assert time.monotonic() - began < MAX_S


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "large", "bytes", "deep"])
def test_the_recipe_of_a_run_never_hinders(tmp_path, monkeypatch, what):
    """Which run is taken where none is named: the newest, though its recipe cannot be read."""
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "model.safetensors").touch()
    os.utime(tmp_path / "runs" / "old" / "model.safetensors", (1, 1))
    make(tmp_path / "runs" / "new" / "recipe.toml", what)
    (tmp_path / "runs" / "pipe").mkdir()
    os.mkfifo(tmp_path / "runs" / "pipe" / "model.safetensors")
    assert zoo.find_model().name == "new"


def test_an_index_with_escapes_is_listed_as_text(cli, tmp_path):
    """Of a table, a card, and facts of one entry."""
    entry = {**GOOD, "licence": "\x1b[31mMIT\x07", "summary": "\x1b]0;title\x07", "data_licence": "\u202etxt"}
    (tmp_path / "index.toml").write_text(as_toml({"entry": [entry]}))
    (tmp_path / "one.md").write_text("# One\x1b[2J\x9b31m\n")
    env = {"SPHERECTL_ZOO_INDEX": str(tmp_path / "index.toml")}
    for line in ("zoo ls", "zoo show one", "zoo ls --json", "zoo show one --json"):
        ended = cli(*line.split(), env=env)
        assert ended.returncode == 0
        assert not set(ended.stdout + ended.stderr) & set("\x1b\x07\x9b\u202e")


def test_names_of_many_entries_are_not_all_told(tmp_path, monkeypatch):
    path = tmp_path / "index.toml"
    path.write_text(as_toml({"entry": [{**GOOD, "name": f"{'n' * 90}{i}"} for i in range(1_000)]}))
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(path))
    monkeypatch.setattr(catalogue, "packaged", lambda _: tmp_path / "none")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "index.toml").touch()
    with pytest.raises(UsageError) as caught:
        zoo.find_entry("zzz")
    assert "and 990 more" in caught.value.hint
