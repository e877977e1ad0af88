"""What an image says of itself: complete, about nothing else, and enough to make it again."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import spherectl
from spherectl import api, provenance
from spherectl.errors import FileError, UsageError
from spherectl.model import kernels
from spherectl.model.formats import weights

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> api.Model:
    return api.load(tiny_run, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def half(tiny_run: Path) -> api.Model:
    return api.load(tiny_run, device="cpu", dtype="bfloat16")


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that cannot run them, where a bfloat16 image may depend on its batch."""
    monkeypatch.setattr(kernels, "available", lambda: False)


def run_of(model: api.Model, count: int, batch: int, seed: int = 3, **settings: Any) -> tuple[torch.Tensor, Any]:
    """Images of a run, and a function that describes some of them."""
    chosen = api.sample_settings(model, **settings)
    batches = list(api.generate(model, count, seed=seed, batch=batch, **chosen.model_dump()))
    labels = None if batches[0].labels is None else torch.cat([b.labels for b in batches])

    def describe(*numbers: int, **more: Any) -> dict[str, Any]:
        indices = torch.tensor(numbers)
        some = None if labels is None else labels[indices]
        table = provenance.describe(
            model, chosen, seed=seed, indices=indices, labels=some, batch=batch, count=count, **more
        )
        return json.loads(json.dumps(table))  # as it comes back from a file

    return torch.cat([b.images for b in batches]), describe


def test_a_single_image_says_what_decides_it_and_no_more(model, tiny_run):
    _, describe = run_of(model, 12, 5, steps=4, guidance=1.5, guide="decoder", noise="fresh", strength="decaying")
    assert describe(11) == {
        "format": 1,
        "model": "tiny",
        "model_sha256": model.sha256,
        "weights": "ema",
        "seed": 3,
        "index": 11,
        "class": 1,
        "steps": 4,
        "guidance": 1.5,
        "guide": "decoder",
        "noise": "fresh",
        "strength": "decaying",
        "noise_deg": "training",
        "dtype": "float32",
        "backend": "cpu sdpa",
        "versions": {"spherectl": spherectl.__version__, "torch": torch.__version__},
    }
    assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
    assert str(tiny_run.parent) not in json.dumps(describe(11))


def test_a_grid_lists_its_images(model):
    _, describe = run_of(model, 12, 5)
    table = describe(0, 7, 11, columns=2)
    assert (table["index"], table["class"], table["columns"]) == ([0, 7, 11], [0, 7, 1], 2)
    assert "columns" not in describe(0, 7)
    assert "columns" not in describe(0, columns=2)  # of one image


@pytest.mark.usefixtures("without_kernels")
def test_the_batch_is_said_only_where_bits_depend_on_it(model, half):
    """In bfloat16: images computed together and the place among them; the last batch is shorter."""
    _, describe = run_of(model, 7, 5)
    assert "chunk" not in describe(6)
    _, describe = run_of(half, 7, 5)
    assert describe(6)["chunk"] == [2, 1]
    assert describe(3, 4, 5)["chunk"] == [[5, 3], [5, 4], [2, 0]]
    assert describe(3)["dtype"] == "bfloat16"


@pytest.mark.skipif(not kernels.available(), reason=f"kernels: {kernels.explain()}")
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_on_the_kernels_no_bit_depends_on_the_batch(tiny_run, precision):
    model = api.load(tiny_run, device="cpu", dtype=precision)
    together, describe = run_of(model, 7, 7)
    apart, _ = run_of(model, 7, 2)
    assert torch.equal(together, apart)
    assert "chunk" not in describe(6)
    assert (describe(6)["dtype"], describe(6)["backend"]) == (precision, "cpu kernels")
    again, _ = provenance.remake(model, provenance.read(describe(5)))
    assert torch.equal(again, together[5:6])


@pytest.mark.parametrize("which", ["model", "half"])
@pytest.mark.parametrize("numbers", [(5,), (0, 1, 2, 3, 4, 5, 6), (6, 2, 3, 0)])
def test_images_are_made_again_bit_for_bit(which, numbers, request):
    model = request.getfixturevalue(which)
    images, describe = run_of(model, 7, 5, steps=4, guidance=1.5, noise="fresh")
    table = describe(*numbers)
    again, about = provenance.remake(model, provenance.read(table))
    assert torch.equal(again, images[list(numbers)])
    assert json.loads(json.dumps(about)) == table


def test_more_images_than_are_remade_at_once_are_made_again_too(model, monkeypatch):
    monkeypatch.setattr(provenance, "REMAKE_BATCH", 3)
    images, describe = run_of(model, 7, 64)
    again, _ = provenance.remake(model, provenance.read(describe(*range(7))))
    assert torch.equal(again, images)


@pytest.mark.usefixtures("without_kernels")
def test_places_of_a_chunk_that_nobody_asks_for_are_filled(half, monkeypatch):
    """An image is computed among as many others as when it was generated, at the same place."""
    seen = []
    real = api.sample_indices

    def watched(model, indices, labels, *rest):
        seen.append((indices.tolist(), labels.tolist()))
        return real(model, indices, labels, *rest)

    _, describe = run_of(half, 7, 5)
    monkeypatch.setattr(api, "sample_indices", watched)
    provenance.remake(half, provenance.read(describe(1, 2, 6)))
    assert seen == [([1, 1, 2, 1, 1], [1, 1, 2, 1, 1]), ([6, 6], [6, 6])]


def test_an_unconditional_image_has_no_class(lively, model):
    package = lively(model.recipe.replace(model={"num_classes": 0}))
    cpu = torch.device("cpu")
    network = weights.instantiate(package)
    free = api.Model(network, package.header, name="free", device=cpu)
    images, describe = run_of(free, 3, 3)
    assert describe(2)["class"] is None
    again, _ = provenance.remake(free, provenance.read(describe(0, 1, 2)))
    assert torch.equal(again, images)
    with pytest.raises(UsageError, match="names classes that free does not have"):
        provenance.remake(free, provenance.read(describe(2) | {"class": 1}))


def test_an_image_of_another_model_or_class_is_refused_and_what_remakes_one_is_said_of_the_new(model):
    _, describe = run_of(model, 2, 2)
    table = describe(1) | {"versions": {"spherectl": "0.0.1", "torch": "1.0"}, "backend": "cuda xformers"}
    assert provenance.remake(model, provenance.read(table))[1] == describe(1)
    provenance.remake(model, provenance.read(describe(1) | {"class": 10}))  # the null class
    with pytest.raises(UsageError, match="names classes that tiny does not have"):
        provenance.remake(model, provenance.read(describe(1) | {"class": 11}))
    other = provenance.read(describe(1) | {"model_sha256": "0" * 64, "model": "theirs"})
    with pytest.raises(UsageError, match=rf"generated by theirs \(000000000000\), not by tiny \({model.sha256[:12]}\)"):
        provenance.remake(model, other)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format 2; this version reads 1"),
        ({"index": [1, 2], "class": [1, 2, 3]}, "do not fit together"),
        ({"chunk": [2, 2]}, "a place lies outside"),
        ({"chunk": [[8192, 0], [8192, 5]], "index": [0, 1], "class": [0, 1]}, "more images than there are"),
        ({"guidance": 0.5, "noise": "loud"}, "guidance: expected 1 to 1,000, got 0.5; noise: expected 'shared' or"),
        ({"edition": 2}, "edition"),
    ],
)
def test_a_table_that_was_changed_is_a_sentence(model, change, named):
    _, describe = run_of(model, 2, 2)
    with pytest.raises(FileError, match=re.escape(named)):
        provenance.read(describe(1) | change)


def test_any_json_at_any_key_is_a_sentence_or_as_good_as_what_was_there(model):
    """Each key of an image's and of a grid's table with each type of JSON: nothing but our own errors."""
    _, describe = run_of(model, 4, 2)
    values = [None, True, False, 0, -1, 1.5, 2**63, 10**400, "", "x", "\ud800", [], [[]], [None], {}, {"a": {"b": []}}]
    for table in (describe(1), describe(0, 1, 2, columns=2)):
        for key in table:
            for value in values:
                with contextlib.suppress(FileError):
                    provenance.read(table | {key: value})


def test_more_pixels_than_a_image_has_are_refused_before_they_are_computed(model, monkeypatch):
    _, describe = run_of(model, 4, 2)
    monkeypatch.setattr(provenance, "MAX_PIXELS", 3 * 32**2)
    provenance.remake(model, provenance.read(describe(0, 1, 2)))
    with pytest.raises(UsageError, match="names 4 images of 32 px"):
        provenance.remake(model, provenance.read(describe(0, 1, 2, 3)))
