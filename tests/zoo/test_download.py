"""Models fetched from addresses: verified, converted, accepted, and what is noted of them."""

from __future__ import annotations

import json

import pytest
import torch

from spherectl import api, zoo
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.model.formats import weights
from spherectl.model.formats.conversion import converted
from spherectl.model.formats.header import read_header
from spherectl.settings import load_settings
from spherectl.zoo import receipts
from spherectl.zoo.download import is_free
from tests.serving import sha256
from tests.zoo.conftest import CHECKPOINT

pytestmark = pytest.mark.fast


def described(layout: dict[str, bytes]) -> list[dict]:
    return [{"path": path, "sha256": sha256(content), "bytes": len(content)} for path, content in layout.items()]


def sampled(name: str) -> torch.Tensor:
    model = api.load(name, device="cpu", dtype="float32")
    return next(api.generate(model, 2, classes=[3, 5], steps=2, seed=1)).images


def test_a_published_folder_is_fetched_converted_and_sampled_by_name(host, own, layout, reference):
    host.files |= {f"far/{path}": content for path, content in layout.items()}
    entry = own(published=f"{host.url}far/", files=described(layout))
    with pytest.raises(UsageError, match="one is not on this machine yet"):
        zoo.find_model("one")
    seen: list[tuple[int, int]] = []
    folder = zoo.fetch(entry, progress=lambda done, total, _note="": seen.append((done, total)))
    total = sum(map(len, layout.values()))
    assert seen[-1] == (total, total)
    assert folder == load_settings().cache / "zoo" / "one"

    images = sampled("one")
    assert torch.equal(images, sampled(str(reference / "published-layout")))
    file = load_settings().cache / "zoo" / "one.safetensors"
    assert (zoo.find_model("one").path, folder.exists()) == (file, False)
    header = read_header(file)
    hashes = {path: sha256(content) for path, content in layout.items()}
    assert header["source"] == {"source": f"{host.url}far/", "files": hashes}
    assert (header["licence"], header["weights"]) == ("MIT", "ema")
    receipt = receipts.load_receipt("zoo/one", load_settings())
    assert (receipt["files"], receipt["converted"]["sha256"]) == (hashes, sha256(file.read_bytes()))

    assert zoo.fetch(entry) == file  # asks for nothing
    assert torch.equal(sampled("one"), images)
    assert sorted(host.paths()) == ["far/cfg.json", f"far/{CHECKPOINT}"]
    made, published = weights.read_package(file), weights.read_package(reference / "published-layout")
    for got, expected in ((made.weights, published.weights), (made.raw, published.raw)):
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
    ("change", "config", "words"),
    [
        ({"classes": 10}, {}, "another model than the zoo says: classes is 7, expected 10"),
        ({"image_size": 32}, {}, "another model than the zoo says: image_size is 16, expected 32"),
        ({}, {"token_channels": 16}, r"is not as its cfg\.json says\. The weights do not fit"),
    ],
)
def test_another_model_than_is_said_is_refused(host, own, layout, change, config, words):
    layout["cfg.json"] = json.dumps(json.loads(layout["cfg.json"]) | config).encode()
    host.files |= layout
    folder = zoo.fetch(own(published=host.url, files=described(layout), **change))
    with pytest.raises(FileError, match=words):
        converted(folder, load_settings())
    assert not folder.with_name("one.safetensors").exists()


def test_what_the_entrys_recipe_says_of_sampling_and_classes_is_taken_over(host, own, layout):
    host.files |= layout
    zoo.fetch(own(published=host.url, files=described(layout), recipe="flowers256"))
    model = api.load("one", device="cpu", dtype="float32")
    assert (model.recipe.sample.guidance, model.recipe.sample.noise) == (1.6, "fresh")
    assert model.class_names == ()  # 7 classes are not those of the flowers
    zoo.fetch(own(name="two", published=host.url, files=described(layout), recipe="not-one-of-ours"))
    assert api.load("two", device="cpu", dtype="float32").recipe.sample.guidance == 1.0


def test_what_is_no_model_is_not_kept(host, own):
    host.files["m.safetensors"] = b"\x80\x02 a pickle"
    with pytest.raises(FileError, match="is not a whole safetensors file"):
        zoo.fetch(own(urls=[f"{host.url}m.safetensors"]), trust=True)
    assert not (load_settings().cache / "zoo" / "one.safetensors").exists()


def test_a_licence_that_is_not_free_is_accepted_once(host, own, ours):
    licence = "CC BY-NC 4.0"
    host.files["m.safetensors"] = ours
    entry = own(urls=[f"{host.url}m.safetensors"], sha256=sha256(ours), bytes=len(ours), licence=licence)
    with pytest.raises(UsageError, match=f"its licence is {licence}, which was not accepted yet") as caught:
        zoo.fetch(entry)
    assert "`spherectl zoo fetch one --accept-licence`" in caught.value.hint
    zoo.fetch(entry, accept=True)
    receipts.remove("zoo/one", load_settings())
    assert zoo.fetch(entry).read_bytes() == ours  # remembered
    assert all(is_free(free) for free in ("Apache-2.0", "mit", "CC BY 4.0", "bsd_3_clause"))
