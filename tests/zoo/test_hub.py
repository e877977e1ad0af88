"""Models of the Hugging Face hub, from and to one on this machine, through huggingface_hub's own client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard, constants

from spherectl import zoo
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.model.formats import weights
from spherectl.safetensors_header import MAX_HEADER
from spherectl.settings import load_settings
from spherectl.zoo import publish, receipts
from tests.hub import COMMIT, TOKEN
from tests.serving import hosting, sha256
from tests.zoo.conftest import CHECKPOINT
from tests.zoo.test_download import sampled

pytestmark = pytest.mark.fast


def test_our_file_is_sampled_by_its_repositorys_name_from_the_hubs_cache(hub, ours, reference, tmp_path):
    hub.put("user/garden", {"README.md": b"card", "model.safetensors": ours})
    found = zoo.find_model("hf:user/garden")
    assert (found.name, found.kind) == ("garden", "hub")
    assert found.reason == f"model: hf:user/garden (as asked for, commit {COMMIT[:12]})"
    assert found.path.read_bytes() == ours
    assert found.path.resolve().is_relative_to(tmp_path / "hf" / "hub" / "models--user--garden")
    assert torch.equal(sampled("hf:user/garden"), sampled(str(reference / "published-layout")))
    assert len(hub.paths()) == 2  # the list, the file; afterwards nothing
    receipt = receipts.load_receipt("zoo/hf/user--garden", load_settings())
    assert (receipt["revision"], receipt["files"]) == (COMMIT, {"": sha256(ours)})
    assert receipts.remove("zoo/hf/user--garden", load_settings()) == len(ours)
    assert not found.path.is_symlink()
    assert not [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_published_folder_is_converted_once_and_used_offline(hub, layout, monkeypatch):
    hub.put("user/garden", {**layout, "ckpt/ep0003.pth": b"an older one"})
    images = sampled("hf:user/garden")
    assert hub.paths()[1:] == [f"user/garden/resolve/{COMMIT}/{path}" for path in layout]
    for name in ("SPHERECTL_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as here:
            here.setenv(name, "1")
            assert torch.equal(sampled("hf:user/garden"), images)
            assert zoo.find_model("hf:user/garden").path.suffix == ".safetensors"
            with pytest.raises(SpherectlError, match=rf"hf:user/other is not in the cache, .* {name} says to"):
                zoo.find_model("hf:user/other")


def test_a_file_of_an_earlier_version_is_found_where_it_was_put(hub, ours):
    """In a cache of our own, with the same receipt beside it."""
    place = load_settings().cache / "zoo" / "hf"
    place.mkdir(parents=True)
    (place / "user--garden.safetensors").write_bytes(ours)
    receipts.save_receipt("zoo/hf/user--garden", load_settings(), name="hf:user/garden", files={"": sha256(ours)})
    assert zoo.find_model("hf:user/garden").path == place / "user--garden.safetensors"
    assert receipts.verify_fetched("zoo/hf/user--garden", load_settings()) == ""
    assert hub.asked == []


def test_a_revision_and_a_folder_can_be_named(hub, layout, ours):
    files = {f"a/{path}": content for path, content in layout.items()} | {"b/small.safetensors": ours}
    hub.put("user/garden", files, branch="v1")
    with pytest.raises(UsageError, match="The hub has no hf:user/garden, or"):
        zoo.find_model("hf:user/garden")
    with pytest.raises(UsageError, match=r"holds several models, .*: a, b/small\.safetensors\.") as caught:
        zoo.find_model("hf:user/garden@v1")
    assert caught.value.hint == "Say which, as in hf:user/garden/a@v1."
    assert zoo.find_model("hf:user/garden/a@v1").path.is_dir()
    assert zoo.find_model("hf:user/garden/b@v1").path.read_bytes() == ours


def test_an_entry_finds_its_folder_asks_once_and_compares_the_second_time(hub, own, layout):
    """As the zoo's own entries for the authors' models do, whose folders nobody here has seen."""
    folders = [f"sphere-{size}-{data}" for size in ("l", "xl") for data in ("cats", "dogs")]
    files = {f"{folder}/{path}": content for folder in folders for path, content in layout.items()}
    hub.put("authors/models", files, licence=None)
    entry = own(name="sphere-l-cats", hub="authors/models", licence="unknown")
    with pytest.raises(UsageError, match=r"its licence is unknown, .* the index does not state its SHA-256") as caught:
        zoo.fetch(entry)
    assert "`spherectl zoo fetch sphere-l-cats --trust --accept-licence`" in caught.value.hint
    zoo.fetch(entry, trust=True, accept=True)
    assert hub.paths()[-1] == f"authors/models/resolve/{COMMIT}/sphere-l-cats/{CHECKPOINT}"
    assert sampled("sphere-l-cats").shape == (2, 3, 16, 16)
    settings = load_settings()
    receipt = receipts.load_receipt("zoo/sphere-l-cats", settings)
    assert (receipt["revision"], receipt["accepted"]) == (COMMIT, "unknown")

    receipts.remove("zoo/sphere-l-cats", settings)
    changed = files | {f"sphere-l-cats/{CHECKPOINT}": b"another"}
    hub.put("authors/models", changed, licence=None, commit="f" * 40)  # main has moved on
    assert zoo.fetch(entry).is_dir()  # the commit that was seen, not the newest
    receipts.remove("zoo/sphere-l-cats", settings)
    hub.put("authors/models", changed, licence=None)  # the same commit, rewritten
    with pytest.raises(FileError, match=rf"has changed since it was first fetched: {CHECKPOINT} had SHA-256"):
        zoo.fetch(entry)


@pytest.mark.parametrize("where", ["variable", "login"])
def test_the_token_goes_to_the_hub_and_to_nobody_else(hub, host, own, ours, monkeypatch, tmp_path, where):
    if where == "variable":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (tmp_path / "token").write_text(TOKEN)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.put("user/garden", {"model.safetensors": ours})
    hub.repos["user/garden"].private = True
    with hosting(**{sha256(ours): ours}) as store:
        hub.elsewhere = store.url
        assert zoo.find_model("hf:user/garden").path.read_bytes() == ours
        assert {one.headers.get("authorization") for one in hub.asked} == {f"Bearer {TOKEN}"}
        assert store.asked
        assert not any("authorization" in one.headers for one in store.asked)
    host.files["m.safetensors"] = ours
    zoo.fetch(own(urls=[f"{host.url}m.safetensors"], sha256=sha256(ours)))
    assert "authorization" not in host.asked[0].headers


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, UsageError, "accept it there, then `hf auth login` (or HF_TOKEN)."),
        (503, SpherectlError, "The hub fails for hf:user/garden: the server says 503."),
        (200, FileError, "does not answer as the Hugging Face hub does"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(hub, status, kind, words):
    hub.answers["api/models/user/garden/revision/main"] = status
    with pytest.raises(kind) as caught:
        zoo.find_model("hf:user/garden")
    assert words in str(caught.value)


def test_nobody_there_a_full_disk_and_an_endpoint_in_the_clear_are_sentences(hub, ours, monkeypatch):
    hub.put("user/garden", {"model.safetensors": ours})
    with monkeypatch.context() as here:
        here.setattr("shutil.disk_usage", lambda _place: type("Usage", (), {"free": 10}))
        with pytest.raises(FileError, match=r"model\.safetensors needs \d+ MB more, and the disk of .* has 0 MB free"):
            zoo.find_model("hf:user/garden")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SpherectlError, match=r"does not answer for hf:user/garden: no connection to http://127"):
        zoo.find_model("hf:user/garden")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    with pytest.raises(UsageError, match="HF_ENDPOINT: expected an https address"):
        zoo.find_model("hf:user/garden")


def test_what_comes_has_to_be_what_the_hub_lists(hub, ours, tmp_path):
    """By size while it comes, by SHA-256 afterwards; nothing of it stays."""
    other = ours[:-1] + bytes([ours[-1] ^ 1])
    for content, words in ((ours + b"more", "has more than the"), (other, "is not .* as it is known")):
        hub.put("user/garden", {"model.safetensors": content})
        large = {"sha256": sha256(ours), "size": len(ours), "pointerSize": 100}
        listed = [{"rfilename": "model.safetensors", "size": len(ours), "lfs": large}]
        hub.listing = lambda document, listed=listed: {**document, "siblings": listed}
        with pytest.raises(SpherectlError, match=words):
            zoo.find_model("hf:user/garden")
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size >= len(ours)]


def test_a_file_of_a_stranger_is_looked_through(hub, layout):
    """As any other model file: the header before anything is made of it, the pickle before torch reads it."""
    long = (MAX_HEADER + 1).to_bytes(8, "little") + b"{}"
    for files in ({"model.safetensors": long}, {**layout, CHECKPOINT: b"\x80\x02cos\nsystem\n."}):
        hub.put("user/garden", files)
        with pytest.raises((FileError, UsageError)):
            sampled("hf:user/garden")
        receipts.remove("zoo/hf/user--garden", load_settings(), forget=True)
        hub.repos.clear()


def test_of_many_that_want_a_folder_of_the_hub_one_fetches(hub, layout):
    """The hash of cfg.json is known to nobody before it comes, so the whole folder is one turn."""
    hub.put("user/garden", layout)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(zoo.find_model, ["hf:user/garden"] * 6))
    assert len({one.path for one in found}) == 1
    resolved = [path for path in hub.paths() if "resolve" in path]
    assert resolved == [f"user/garden/resolve/{COMMIT}/{path}" for path in layout]


# Pushing


def test_what_was_pushed_is_found_by_its_name_with_a_card_and_samples(hub, ours, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    file = tmp_path / "mine.safetensors"
    file.write_bytes(ours)
    address = publish.push(file, "hf:user/garden", grid=b"\x89PNG", words="# Garden\n\nWords of mine.", licence="Mine")
    assert address.startswith(f"{hub.url}/user/garden/commit/")
    files = hub.repos["user/garden"].files("main")
    assert (files["model.safetensors"], files["samples.png"]) == (ours, b"\x89PNG")
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("spherectl", "other")
    assert "# Garden\n\n![Samples](samples.png)\n\nWords of mine." in card.text
    assert "spherectl sample --model hf:user/garden" in card.text
    assert zoo.find_model("hf:user/garden").path.read_bytes() == ours
    package = weights.read_package(file)
    weights.write_package(file, replace(package, header=package.header | {"images_seen": 5}))
    publish.push(file, "user/garden", words="# Other words")
    assert zoo.find_model("hf:user/garden").path.read_bytes() == file.read_bytes()  # not what was fetched before
    assert hub.repos["user/garden"].files("main")["README.md"] == files["README.md"]  # a person may have changed it


def test_a_card_says_licence_data_and_scores():
    header = {"licence": "Apache-2.0", "data": "garden", "name": "g", "class_names": ["a", "b"], "image_size": 32}
    header["scores"] = [{"metric": "FID, 4 steps", "value": 4.5, "command": "spherectl evaluate g"}]
    card = ModelCard(publish.card(header, "garden", "hf:user/garden"))
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["garden"])
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_name, result.metric_value) == ("fid-4-steps", "FID, 4 steps", 4.5)
    assert "| FID, 4 steps | 4.5 | `spherectl evaluate g` |" in card.text
    other = ModelCard(publish.card({"licence": "My own", "data": "/home/me/x"}, "garden", "hf:user/garden"))
    assert (other.data.license, other.data.license_name, other.data.datasets) == ("other", "my-own", None)


def test_a_private_repository_is_private_or_nothing_is_uploaded(hub, ours, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    file = tmp_path / "mine.safetensors"
    file.write_bytes(ours)
    publish.push(file, "user/garden", private=True)
    assert hub.repos["user/garden"].private
    hub.put("user/open", {})
    with pytest.raises(UsageError, match="hf:user/open is there already, and public: nothing was uploaded"):
        publish.push(file, "user/open", private=True)
    assert hub.repos["user/open"].files("main") == {}


def test_a_push_that_cannot_be_is_a_sentence(hub, ours, tmp_path, monkeypatch):
    file = tmp_path / "mine.safetensors"
    file.write_bytes(ours)
    with pytest.raises(UsageError, match="To write to the hub takes a token") as caught:
        publish.push(file, "hf:user/garden")
    assert caught.value.hint == "`hf auth login` asks for it."
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UsageError, match=r"does not let you write to hf:others/garden: it says 40\d"):
        publish.push(file, "hf:others/garden")
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(UsageError, match="is not written, because SPHERECTL_OFFLINE says"):
        publish.push(file, "hf:user/garden")
    assert hub.repos == {}
