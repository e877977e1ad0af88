"""References: statistics as others publish them, a cache that notices every change, draws of real images."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spherectl.data.datasets import FolderImages, ImageSet, MemoryImages, open_dataset
from spherectl.errors import FileError, UsageError
from spherectl.evaluation import reference as references
from spherectl.evaluation.embeddings import even_draw, extract
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import fidelity
from spherectl.evaluation.reference import Reference, of_images, read_statistics, save_statistics
from spherectl.recipe import DataSpec
from spherectl.settings import load_settings
from tests.evaluation.conftest import Malicious, write_pngs

pytestmark = pytest.mark.fast


@pytest.fixture
def real(excerpt: tuple[ImageSet, ImageSet], scorer: Extractor) -> Reference:
    found = of_images(excerpt[1], scorer, what="test")
    assert found is not None
    return found


def cached() -> list[Path]:
    return sorted((load_settings().cache / "features").glob("*.npz"))


def test_the_cache_is_used_and_every_change_misses_it(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor, real: Reference
) -> None:
    assert len(cached()) == 1
    asked: list[int] = []
    again = of_images(excerpt[1], scorer, progress=lambda done, *_: asked.append(done))
    assert asked == []
    assert again is not None
    assert again.features is not None
    assert real.features is not None
    assert torch.equal(again.features.embedding, real.features.embedding)
    assert torch.equal(again.features.logits, real.features.logits)  # type: ignore[arg-type]
    test = excerpt[1]
    assert isinstance(test, MemoryImages)
    other = test.pixels.clone()
    other[3, 5, 5] += 1
    changed = [
        (dataclasses.replace(test, pixels=other), scorer),  # one level of one pixel
        (dataclasses.replace(test, pixels=test.pixels.flip(0)), scorer),  # their order
        (test, dataclasses.replace(scorer, digest="another network")),
    ]
    for number, (images, network) in enumerate(changed, 2):
        of_images(images, network)
        assert len(cached()) == number


def test_a_damaged_file_of_the_cache_is_made_again(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor, real: Reference
) -> None:
    path = cached()[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = of_images(excerpt[1], scorer)
    assert again is not None
    np.testing.assert_array_equal(again.covariance, real.covariance)
    assert path.read_bytes()[:100] == whole[:100]


def test_a_folders_fingerprint_is_of_its_files_contents(tmp_path: Path, excerpt: tuple[ImageSet, ImageSet]) -> None:
    def opened(name: str) -> FolderImages:
        spec = DataSpec(kind="folder", fit="pad", flip=False)
        images = open_dataset(spec, 32, root=tmp_path / name, evaluation=True)
        assert isinstance(images, FolderImages)
        return images

    pixels = excerpt[1].gather(torch.arange(4))
    for name in ("a", "copy", "other"):
        write_pngs(tmp_path / name, pixels if name != "other" else pixels.flip(0))
    assert opened("a").fingerprint() == opened("copy").fingerprint() != opened("other").fingerprint()
    assert dataclasses.replace(opened("a"), grey=True).fingerprint() != opened("a").fingerprint()
    (tmp_path / "a" / "00002.png").unlink()
    listed = opened("copy")
    (tmp_path / "copy" / "00002.png").unlink()
    with pytest.raises(FileError, match=r"Cannot read .*00002\.png"):
        listed.fingerprint()


def test_statistics_made_elsewhere_give_the_images_distance(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor, real: Reference, tmp_path: Path
) -> None:
    """As the authors' scripts and the ADM suite write them, with arrays of other names beside."""
    assert real.features is not None
    features = real.features.embedding.numpy()
    np.savez(
        tmp_path / "theirs.npz",
        mu=features.mean(0),
        sigma=np.cov(features, rowvar=False).astype(np.float32),
        mu_s=np.zeros(7),
    )
    samples = excerpt[0].gather(torch.arange(60))
    theirs = read_statistics(tmp_path / "theirs.npz", scorer, 32)
    by_file = fidelity(samples, theirs, scorer, metrics=["fid"]).frechet_distance
    by_images = fidelity(samples, excerpt[1], scorer, metrics=["fid"]).frechet_distance
    assert by_file == pytest.approx(by_images, rel=1e-4)
    assert (theirs.name, theirs.count, theirs.extractor) == ("theirs.npz", None, None)


def test_saved_statistics_are_plain_arrays_that_say_what_they_are(
    real: Reference, scorer: Extractor, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "real.npz"
    save_statistics(path, real)
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["about", "mu", "sigma"]
        np.testing.assert_array_equal(arrays["sigma"], real.covariance)
    again = read_statistics(path, scorer, 32)
    expected = (real.name, real.count, real.image_size, "fashion-scorer")
    assert (again.name, again.count, again.image_size, again.extractor) == expected
    assert again.features is None


def test_statistics_of_another_network_or_size_are_refused(real: Reference, scorer: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    save_statistics(path, real)
    with pytest.raises(
        UsageError, match=r"of the features of fashion-scorer; those of another .*--features|comparable"
    ):
        read_statistics(path, dataclasses.replace(scorer, name="another"), 32)
    with pytest.raises(UsageError, match="of images of 32 px; the samples have 64 px") as caught:
        read_statistics(path, dataclasses.replace(scorer, image_size=None), 64)
    assert "Give the folder of those images, which are then brought to 64 px" in caught.value.hint
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UsageError, match="statistics of 2048 features; fashion-scorer has 128"):
        read_statistics(tmp_path / "wide.npz", scorer, 32)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"arr_0": np.zeros(128)}, "holds no statistics"),
        ({"mu": np.full(128, np.nan)}, "not all finite numbers"),
        ({"about": np.array('{"format": 2}')}, "format: expected 1"),
        ("pickle", "not a whole .npz"),
        ("pipe", "it is not a regular file"),
    ],
    ids=str,
)
def test_a_file_that_holds_no_statistics_is_told(arrays: Any, sentence: str, scorer: Extractor, tmp_path: Path) -> None:
    path, whole = tmp_path / "stats.npz", {"mu": np.zeros(128), "sigma": np.eye(128)}
    if isinstance(arrays, dict):
        np.savez(path, **(arrays if "arr_0" in arrays else whole | arrays))
    elif arrays == "pipe":
        os.mkfifo(path)
    else:
        np.savez(path, mu=np.array([Malicious(tmp_path / "mark")], dtype=object), sigma=np.eye(128))
    with pytest.raises(FileError, match=sentence):
        read_statistics(path, scorer, 32)
    assert not (tmp_path / "mark").exists()


def test_a_very_large_set_is_represented_by_a_random_part(
    excerpt: tuple[ImageSet, ImageSet], scorer: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "LARGEST", 99)
    monkeypatch.setattr(references, "PART", 40)
    found = of_images(excerpt[1], scorer)
    assert found is not None
    assert found.features is not None
    whole = extract(excerpt[1], scorer)
    assert whole is not None
    places = [int((whole.embedding == row).all(1).nonzero()[0]) for row in found.features.embedding]
    assert found.count == 40
    assert places == sorted(set(places))
    assert places != list(range(40))


def test_an_even_draw_takes_as_many_of_each_class_without_repeating() -> None:
    labels = torch.tensor([0] * 50 + [1] * 9 + [2] * 30)
    drawn = even_draw(labels, 24, seed=3)
    assert labels[drawn].bincount().tolist() == [8, 8, 8]
    assert len(drawn.unique()) == 24
    assert not torch.equal(drawn, even_draw(labels, 24, seed=4))
    assert even_draw(labels, 89, seed=3).sort().values.tolist() == list(range(89))


def test_a_cache_that_cannot_be_written_stops_nothing(excerpt: tuple[ImageSet, ImageSet], scorer: Extractor) -> None:
    (load_settings().cache / "features").parent.mkdir(parents=True, exist_ok=True)
    (load_settings().cache / "features").write_text("a file where the folder would be")
    found = of_images(excerpt[1], scorer, what="test")
    assert found is not None
    assert found.count == 100
