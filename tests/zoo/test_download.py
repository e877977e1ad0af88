"""Models fetched as people name them: from addresses, published folders and a hub on this machine; what is noted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from spherectl import api, downloader, zoo
from spherectl.cli.app import app
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.model.formats import weights
from spherectl.model.formats.conversion import converted
from spherectl.model.formats.header import read_header
from spherectl.model.formats.layouts import PUBLISHED
from spherectl.settings import load_settings
from spherectl.zoo import catalogue, download, hub, receipts
from tests.serving import COMMIT, Host, hosting, put_on_hub, sha256

pytestmark = pytest.mark.fast

CHECKPOINT = "ckpt/ep0007.pth"
FACTS = {
    "kind": "model",
    "licence": "MIT",
    "summary": "The reference model.",
    "channels": "rgb",
    "image_size": 16,
    "classes": 7,
}


@pytest.fixture
def layout(reference: Path) -> dict[str, bytes]:
    """The files of the published checkpoint of the reference vectors."""
    folder = reference / "published-layout"
    return {name: (folder / name).read_bytes() for name in ("cfg.json", CHECKPOINT)}


@pytest.fixture
def ours(reference: Path, tmp_path: Path) -> bytes:
    """The same model as a file of ours."""
    path = tmp_path / "ours.safetensors"
    weights.write_package(path, PUBLISHED.read(reference / "published-layout"))
    return path.read_bytes()


@pytest.fixture
def host(monkeypatch) -> Iterator[Host]:
    """A server that is the hub as well."""
    with hosting() as host:
        monkeypatch.setenv("HF_ENDPOINT", host.url)
        monkeypatch.setattr(downloader.time, "sleep", lambda _s: None)
        yield host


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(name="one", ...)` puts one entry into an index of the user's own, and returns it."""

    def write(**entry: object) -> zoo.Entry:
        lines = [f"{key} = {inline(value)}" for key, value in {"name": "one", **FACTS, **entry}.items()]
        (tmp_path / "index.toml").write_text("\n".join(["[[entry]]", *lines]), encoding="utf-8")
        monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(tmp_path / "index.toml"))
        return zoo.find_entry(str(entry.get("name", "one")))

    return write


def inline(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {inline(one)}' for key, one in value.items())}}}"
    return json.dumps(value)


def described(layout: dict[str, bytes]) -> list[dict]:
    return [{"path": path, "sha256": sha256(content), "bytes": len(content)} for path, content in layout.items()]


def drawn(name: str) -> torch.Tensor:
    model = api.load(name, device="cpu", dtype="float32")
    return next(api.generate(model, 2, classes=[3, 5], steps=2, seed=1)).images


# A folder in the published layout, behind plain HTTP


def test_a_published_folder_is_fetched_converted_and_sampled_by_name(host, own, layout, reference):
    host.files |= {f"far/{path}": content for path, content in layout.items()}
    entry = own(published=f"{host.url}far/", files=described(layout))
    with pytest.raises(UsageError, match="one is not on this machine yet"):
        zoo.find_model("one")
    seen: list[tuple[int, int]] = []
    folder = zoo.fetch(entry, progress=lambda done, total, *_: seen.append((done, total)))
    total = sum(map(len, layout.values()))
    assert seen[-1] == (total, total)
    assert folder == load_settings().cache / "zoo" / "one"

    images = drawn("one")
    assert torch.equal(images, drawn(str(reference / "published-layout")))
    file = load_settings().cache / "zoo" / "one.safetensors"
    assert (zoo.find_model("one").path, folder.exists()) == (file, False)
    header = read_header(file)
    hashes = {path: sha256(content) for path, content in layout.items()}
    assert header["source"] == {"source": f"{host.url}far/", "files": hashes}
    assert (header["licence"], header["weights"]) == ("MIT", "ema")
    note = receipts.load_note("zoo/one", load_settings())
    assert (note["files"], note["converted"]["sha256"]) == (hashes, sha256(file.read_bytes()))

    assert zoo.fetch(entry) == file  # asks for nothing
    assert torch.equal(drawn("one"), images)
    assert sorted(host.paths()) == ["far/cfg.json", f"far/{CHECKPOINT}"]


def test_raw_and_averaged_weights_survive_the_conversion(host, own, layout, reference):
    host.files |= layout
    converted(zoo.fetch(own(published=host.url, files=described(layout))), load_settings())
    file = weights.read_package(load_settings().cache / "zoo" / "one.safetensors")
    folder = PUBLISHED.read(reference / "published-layout")
    for got, expected in ((file.weights, folder.weights), (file.raw, folder.raw)):
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_without_hashes_it_takes_a_word_and_what_came_is_pinned(host, own, layout):
    host.files |= layout
    entry = own(published=host.url, files=[{"path": path} for path in layout])
    with pytest.raises(UsageError, match="the index does not state its SHA-256") as caught:
        zoo.fetch(entry)
    assert "`spherectl zoo fetch one --trust`" in caught.value.hint
    assert host.paths() == []
    zoo.fetch(entry, trust=True)
    settings = load_settings()
    assert receipts.remove("zoo/one", settings) >= sum(map(len, layout.values()))
    assert entry.state(settings) == "remote"

    zoo.fetch(entry)  # as it was seen before: no word is needed
    receipts.remove("zoo/one", settings)
    host.files["cfg.json"] += b"\n"
    with pytest.raises(SpherectlError, match=r"is not cfg\.json as it is known"):
        zoo.fetch(entry)
    receipts.remove("zoo/one", settings, forget=True)
    with pytest.raises(UsageError, match="--trust"):
        zoo.fetch(entry)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 10}, "another model than the zoo says: classes is 7, expected 10"),
        ({"image_size": 32}, "another model than the zoo says: image_size is 16, expected 32"),
    ],
)
def test_another_model_than_the_index_says_is_refused(host, own, layout, change, words):
    host.files |= layout
    folder = zoo.fetch(own(published=host.url, files=described(layout), **change))
    with pytest.raises(FileError, match=words):
        converted(folder, load_settings())
    assert not folder.with_name("one.safetensors").exists()


def test_tensors_that_cfg_json_does_not_describe_are_refused(host, own, layout):
    cfg = json.loads(layout["cfg.json"])
    layout["cfg.json"] = json.dumps({**cfg, "token_channels": 16}).encode()
    host.files |= layout
    folder = zoo.fetch(own(published=host.url, files=described(layout)))
    with pytest.raises(FileError, match=r"is not as its cfg\.json says\. The weights do not fit"):
        converted(folder, load_settings())


def test_what_the_entrys_recipe_says_of_drawing_and_classes_is_taken_over(host, own, layout):
    host.files |= layout
    zoo.fetch(own(published=host.url, files=described(layout), recipe="flowers256"))
    model = api.load("one", device="cpu", dtype="float32")
    assert (model.recipe.sample.guidance, model.recipe.sample.noise) == (1.6, "fresh")
    assert model.class_names == ()  # 7 classes are not those of the flowers
    zoo.fetch(own(name="two", published=host.url, files=described(layout), recipe="not-one-of-ours"))
    assert api.load("two", device="cpu", dtype="float32").recipe.sample.guidance == 1.0


# One file from an address


def test_a_file_without_a_hash_takes_a_word(host, own, ours):
    host.files["m.safetensors"] = ours
    entry = own(urls=[f"{host.url}m.safetensors"])
    with pytest.raises(UsageError, match="--trust"):
        zoo.fetch(entry)
    path = zoo.fetch(entry, trust=True)
    assert path.read_bytes() == ours
    assert receipts.load_note("zoo/one", load_settings())["files"] == {"": sha256(ours)}
    assert zoo.verify(entry, load_settings()) == ""
    path.write_bytes(ours[:-1] + b"?")
    assert "and had" in zoo.verify(entry, load_settings())


@pytest.mark.parametrize("content", [b"PK\x03\x04 an archive", b"", b"\x80\x02 a pickle"])
def test_what_is_no_model_is_not_kept(host, own, content):
    host.files["m.safetensors"] = content
    with pytest.raises(FileError, match="is not a whole safetensors file"):
        zoo.fetch(own(urls=[f"{host.url}m.safetensors"]), trust=True)
    assert not (load_settings().cache / "zoo" / "one.safetensors").exists()


@pytest.mark.parametrize("licence", ["CC BY-NC 4.0", "unknown", "other"])
def test_a_licence_that_is_not_free_is_accepted_once(host, own, ours, licence):
    host.files["m.safetensors"] = ours
    entry = own(urls=[f"{host.url}m.safetensors"], sha256=sha256(ours), bytes=len(ours), licence=licence)
    with pytest.raises(UsageError, match=f"its licence is {licence}, which was not accepted yet") as caught:
        zoo.fetch(entry)
    assert "`spherectl zoo fetch one --accept-licence`" in caught.value.hint
    zoo.fetch(entry, accept=True)
    receipts.remove("zoo/one", load_settings())
    assert zoo.fetch(entry).read_bytes() == ours  # remembered


@pytest.mark.parametrize("licence", ["Apache-2.0", "mit", "CC BY 4.0", "bsd_3_clause"])
def test_free_licences_need_no_word(licence):
    assert download.is_free(licence)


# The hub


def test_our_file_on_the_hub_is_drawn_from_by_its_repositorys_name(host, ours, reference):
    put_on_hub(host, "user/garden", {"README.md": b"card", "model.safetensors": ours})
    found = zoo.find_model("hf:user/garden")
    assert (found.name, found.kind) == ("garden", "hub")
    assert found.reason == f"model: hf:user/garden (as asked for, commit {COMMIT[:12]})"
    assert found.path.read_bytes() == ours
    assert torch.equal(drawn("hf:user/garden"), drawn(str(reference / "published-layout")))
    assert len(host.asked) == 2  # the list, the file; afterwards nothing
    note = receipts.load_note("zoo/hf/user--garden", load_settings())
    assert (note["revision"], note["files"]) == (COMMIT, {"": sha256(ours)})


def test_a_published_folder_on_the_hub_is_converted_once(host, layout, monkeypatch):
    put_on_hub(host, "user/garden", {**layout, "ckpt/ep0003.pth": b"an older one"})
    images = drawn("hf:user/garden")
    assert host.paths()[1:] == [f"user/garden/resolve/{COMMIT}/{path}" for path in layout]
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    assert torch.equal(drawn("hf:user/garden"), images)
    assert zoo.find_model("hf:user/garden").path.suffix == ".safetensors"
    with pytest.raises(SpherectlError, match=r"hf:user/other is not in the cache, and .* SPHERECTL_OFFLINE"):
        zoo.find_model("hf:user/other")


def test_a_revision_and_a_folder_can_be_named(host, layout, ours):
    files = {f"a/{path}": content for path, content in layout.items()} | {"b/small.safetensors": ours}
    put_on_hub(host, "user/garden", files, branch="v1")
    with pytest.raises(UsageError, match="The hub has no hf:user/garden, or"):
        zoo.find_model("hf:user/garden")
    with pytest.raises(UsageError, match=r"holds several models, .*: a, b/small\.safetensors\.") as caught:
        zoo.find_model("hf:user/garden@v1")
    assert caught.value.hint == "Say which, as in hf:user/garden/a@v1."
    assert zoo.find_model("hf:user/garden/a@v1").path.is_dir()
    assert zoo.find_model("hf:user/garden/b@v1").path.read_bytes() == ours
    assert zoo.find_model("hf:user/garden/b/small.safetensors@v1").path.read_bytes() == ours


def test_the_zoos_entry_finds_its_folder_in_the_listing(host, own, layout):
    """As the zoo's own entries for the authors' models do, whose folders nobody here has seen."""
    folders = [f"sphere-{size}-{data}" for size in ("l", "xl") for data in ("cats", "dogs")]
    files = {f"{folder}/{path}": content for folder in folders for path, content in layout.items()}
    put_on_hub(host, "authors/models", files, licence=None)
    entry = own(name="sphere-l-cats", hub="authors/models", licence="unknown")
    with pytest.raises(UsageError, match=r"its licence is unknown, .* the index does not state its SHA-256") as caught:
        zoo.fetch(entry)
    assert "`spherectl zoo fetch sphere-l-cats --trust --accept-licence`" in caught.value.hint
    zoo.fetch(entry, trust=True, accept=True)
    assert host.paths()[-1] == f"authors/models/resolve/{COMMIT}/sphere-l-cats/{CHECKPOINT}"
    assert drawn("sphere-l-cats").shape == (2, 3, 16, 16)
    note = receipts.load_note("zoo/sphere-l-cats", load_settings())
    assert (note["revision"], note["accepted"]) == (COMMIT, "unknown")


def test_a_second_fetch_compares_with_the_first(host, own, layout):
    put_on_hub(host, "authors/models", layout)
    entry = own(hub="authors/models")
    zoo.fetch(entry, trust=True)
    receipts.remove("zoo/one", load_settings())
    put_on_hub(host, "authors/models", {**layout, CHECKPOINT: b"another"}, commit="f" * 40)  # main has moved on
    assert zoo.fetch(entry).is_dir()  # the commit that was seen is fetched, not the newest
    receipts.remove("zoo/one", load_settings())
    put_on_hub(host, "authors/models", {**layout, CHECKPOINT: b"another"})  # the same commit, rewritten
    with pytest.raises(FileError, match=rf"one has changed since it was first fetched: {CHECKPOINT} had SHA-256"):
        zoo.fetch(entry)


def test_the_token_goes_to_the_hub_and_to_nobody_else(host, ours, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    put_on_hub(host, "user/garden", {"model.safetensors": ours})
    with hosting(blob=ours) as store:
        host.answers[f"user/garden/resolve/{COMMIT}/model.safetensors"] = [("to", f"{store.url}blob")]
        assert zoo.find_model("hf:user/garden").path.read_bytes() == ours
        assert [one.headers.get("authorization") for one in host.asked] == ["Bearer hf_secret"] * 2
        assert "authorization" not in store.asked[0].headers
    assert hub.headers("https://example.org/api") == {}
    assert hub.headers(host.url.replace("127.0.0.1", "localhost")) == {}


def test_a_token_is_not_sent_to_addresses_of_an_index(host, own, ours, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    host.files["m.safetensors"] = ours
    zoo.fetch(own(urls=[f"{host.url}m.safetensors"], sha256=sha256(ours)))
    assert "authorization" not in host.asked[0].headers


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (404, "The hub has no hf:user/garden, or it has no such revision."),
        (401, "The hub does not show hf:user/garden: it says 401. Check the name; if"),
        (403, "accept it there and set HF_TOKEN."),
        (500, "the server says 500"),
        (200, "does not answer as the Hugging Face hub does"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(host, answer, words):
    path = "api/models/user/garden/revision/main"
    host.files[path], host.answers[path] = b"[]", [answer]
    with pytest.raises(SpherectlError) as caught:
        zoo.find_model("hf:user/garden")
    assert words in str(caught.value)


def test_a_repository_without_a_model_is_a_sentence(host, own):
    put_on_hub(host, "user/garden", {"weights.zip": b"PK", "cfg.json": b"{}"})
    with pytest.raises(
        UsageError, match=r"holds no model: expected one \.safetensors file, or .* weights\.zip are never"
    ):
        zoo.find_model("hf:user/garden")


@pytest.mark.parametrize(
    "text", ["hf:", "hf:user", "hf:user/../x", "hf:a/b/../../c", "hf:a/b@", "hf:a/b@..", "hf:a b/c"]
)
def test_a_name_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="Expected hf:user/repo"):
        hub.parse_name(text)


def test_names_come_back_as_they_were_typed():
    for text in ("hf:user/repo", "hf:user/repo@v1.0", "hf:user/repo/folder/deep@main-2", "hf:user/m.safetensors"):
        assert str(hub.parse_name(text)) == text
    places = {download.hub_place(hub.parse_name(text)) for text in ("hf:a/b", "hf:a/b@c", "hf:a/b/c", "hf:a/b/c@d")}
    assert len(places) == 4


def test_an_endpoint_in_the_clear_is_refused(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    with pytest.raises(UsageError, match="HF_ENDPOINT: expected an https address"):
        hub.endpoint()


def test_a_licence_on_the_hub_is_asked_for_like_any_other(host, ours):
    put_on_hub(host, "user/garden", {"model.safetensors": ours}, licence="cc-by-nc-4.0")
    with pytest.raises(UsageError, match=r"its licence is cc-by-nc-4\.0") as caught:
        zoo.find_model("hf:user/garden")
    assert caught.value.hint.startswith("`spherectl zoo fetch hf:user/garden --accept-licence`")


def test_doctor_fetches_nothing(host, ours, monkeypatch):
    put_on_hub(host, "user/garden", {"model.safetensors": ours})
    monkeypatch.setenv("SPHERECTL_MODEL", "hf:user/garden")
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(told.stdout)["model"] == {"default": "hf:user/garden, to be fetched when it is first used"}
    assert host.paths() == []


FETCHING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from spherectl import zoo
with ThreadPoolExecutor(3) as pool:
    print(*{str(found.path) for found in pool.map(zoo.find_model, ["hf:user/garden"] * 3)})
"""


def test_of_many_that_want_a_folder_of_the_hub_one_fetches(cli, host, layout):
    """The hash of cfg.json is known to nobody before it comes, so the whole folder is one turn."""
    put_on_hub(host, "user/garden", layout)
    environment = cli.environment({"HF_ENDPOINT": host.url})

    def run(_number: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", FETCHING], env=environment, capture_output=True, text=True, check=False
        )

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(run, range(2)))
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * 2
    assert len({one.stdout for one in ended}) == 1
    assert [path for path in host.paths() if "resolve" in path] == [
        f"user/garden/resolve/{COMMIT}/{path}" for path in layout
    ]
    assert catalogue.index()  # and nothing of it is an entry
