"""The feature networks in the zoo: what their cards say, measured again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from torch import nn

from spherectl.data.datasets import MemoryImages, open_dataset
from spherectl.errors import UsageError
from spherectl.features import fit
from spherectl.features.independence import check_independent
from spherectl.features.records import plans
from spherectl.features.store import fingerprint, load_feature_network, read_feature_header
from spherectl.recipe import DataSpec, Recipe, loads
from spherectl.settings import packaged

NAMES = ("fashion-features", "fashion-scorer")
EMOJI = "Apache-2.0 (Noto Emoji) and CC BY 4.0 (Twemoji)"
FACTS = [
    ("fashion-features", 60_000, "MIT", "t-shirt"),
    ("fashion-scorer", 60_000, "MIT", "t-shirt"),
    ("emoji-features", 3_432, EMOJI, "activities"),
    ("emoji-scorer", 3_432, EMOJI, "activities"),
]


@pytest.fixture(scope="module")
def tests() -> MemoryImages:
    try:
        data = DataSpec(kind="fashion-mnist", fit="pad", channels="grey")
        return open_dataset(data, 32, split="test", download=False)
    except UsageError:
        pytest.skip("Fashion-MNIST is not on this machine; `spherectl train fashion-mnist` fetches it")


def trained_against(name: str) -> Recipe:
    return loads(f'name = "m"\n[loss]\nperceptual = "features:{name}"\n[run]\nlength_epochs = 1\n')


@pytest.mark.parametrize(
    ("step", "tolerance"),
    [
        pytest.param(10, 0.025, marks=pytest.mark.slow),  # of 1,000 images the accuracy has a deviation of 0.008
        pytest.param(1, 0.0005, marks=pytest.mark.soak),  # 5 of 10,000 images: another machine rounds otherwise
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_as_the_file_and_the_card_say(name: str, step: int, tolerance: float, tests: MemoryImages) -> None:
    some = dataclasses.replace(tests, pixels=tests.pixels[::step], labels=tests.labels[::step])
    measured = fit.measure_accuracy(load_feature_network(name), some)
    header = read_feature_header(packaged("zoo") / f"{name}.safetensors")
    assert len(tests) == header["test_images"] == 10_000
    assert header["accuracy"] >= 0.92
    assert measured == pytest.approx(header["accuracy"], abs=tolerance)


@pytest.mark.fast
@pytest.mark.parametrize(("name", "images", "data_licence", "first"), FACTS)
def test_files_are_small_hold_plain_convolutions_and_say_what_they_are_for(
    name: str, images: int, data_licence: str, first: str
) -> None:
    path = packaged("zoo") / f"{name}.safetensors"
    assert path.stat().st_size < 3_000_000
    header, plan = read_feature_header(path), plans()[name]
    # the file is what the command would make now
    assert header["plan"] | {"data": header["data"]} == dataclasses.asdict(plan)
    assert header["images_seen"] == plan.epochs * (images // plan.batch_size) * plan.batch_size
    assert (header["data_licence"], header["image_size"], header["licence"]) == (data_licence, 32, "Apache-2.0")
    assert header["class_names"][0] == first
    assert not any(isinstance(m, nn.BatchNorm2d) for m in load_feature_network(name).modules())
    assert f"{header['accuracy']:.2%}" in (packaged("zoo") / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.fast
def test_the_two_are_different_networks_and_neither_scores_what_it_trained(tmp_path: Path) -> None:
    loss, scorer = (load_feature_network(name) for name in NAMES)
    assert fingerprint(loss) != fingerprint(scorer)
    assert plans()[NAMES[0]].seed != plans()[NAMES[1]].seed
    for own, other in (NAMES, NAMES[::-1]):
        with pytest.raises(UsageError, match=f"trained against the features of {own}"):
            check_independent(trained_against(own), own)
        check_independent(trained_against(own), other)
        check_independent(trained_against(own).replace(loss={"perceptual": "none"}), own)
    renamed = tmp_path / "innocent.safetensors"
    shutil.copy(packaged("zoo") / f"{NAMES[0]}.safetensors", renamed)
    for same in (renamed, load_feature_network(renamed)):
        with pytest.raises(UsageError, match="trained against the features of fashion-features"):
            check_independent(trained_against(NAMES[0]), same)
