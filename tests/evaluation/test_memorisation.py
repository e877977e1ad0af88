"""Near-copies: planted ones among real images, thresholds and summaries against plain arithmetic, refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherectl.data.datasets import ImageSet, MemoryImages, open_dataset
from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.evaluation.memorisation import Memorisation, closeness, memorisation, neighbour_image
from spherectl.evaluation.neighbours import Embed
from spherectl.features.store import load_feature_network
from spherectl.recipe import DataSpec

GARMENTS = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")


@pytest.fixture(scope="module")
def embed() -> Embed:
    """The zoo's scoring network."""
    network: nn.Module = load_feature_network("fashion-scorer")
    return lambda images: network.embed(to_float(images))  # type: ignore[operator,no-any-return]


def plant(images: Tensor, sigma: float, seed: int) -> Tensor:
    """Copies of black-bordered images, moved by 1 or 2 pixels along one or both axes, with noise in every channel."""
    generator = torch.Generator().manual_seed(seed)
    steps = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)]
    chosen = torch.randint(0, len(steps), (len(images),), generator=generator)
    moved = torch.stack([p.roll(steps[step], (1, 2)) for p, step in zip(images, chosen, strict=True)])
    noisy = moved + sigma * torch.randn(moved.shape, generator=generator)
    return noisy.round().clamp(0, 255).to(torch.uint8)


def subset(images: ImageSet, indices: Tensor) -> ImageSet:
    assert isinstance(images, MemoryImages)
    return dataclasses.replace(images, pixels=images.pixels[indices], labels=images.labels[indices])


# On the excerpt: 300 training images, 100 test images, of which 80 calibrate and check and 20 pass as samples

PLANTED = torch.arange(5, 300, 29)  # 11 training images


@pytest.fixture(scope="module")
def sets(excerpt: tuple[ImageSet, ImageSet]) -> tuple[ImageSet, ImageSet, Tensor]:
    """Training set, test set, and 20 + 11 samples."""
    train, test = excerpt
    fresh = torch.arange(100) % 5 == 0
    copies = plant(train.gather(PLANTED), 8, seed=0)
    return train, subset(test, (~fresh).nonzero()[:, 0]), torch.cat([test.gather(fresh.nonzero()[:, 0]), copies])


@pytest.fixture(scope="module")
def result(sets: tuple[ImageSet, ImageSet, Tensor], embed: Embed) -> Memorisation:
    train, test, samples = sets
    return memorisation(samples, train, test, embed, rate=0.05)


@pytest.mark.fast
def test_planted_copies_are_flagged_and_fresh_images_are_not(result: Memorisation) -> None:
    assert result.flagged[20:].all()
    assert torch.equal(result.samples.pixel_index[20:], PLANTED)
    assert result.flagged[:20].sum() <= 2
    assert closeness(result.samples)[20:].max() < closeness(result.test).min() / 2


@pytest.mark.fast
def test_threshold_is_an_order_statistic_of_one_half_and_the_other_half_checks_it(result: Memorisation) -> None:
    assert sorted(result.test_index.tolist()) == list(range(80))
    assert result.test_index.tolist() != list(range(80))
    assert result.calibration.tolist() == [True] * 40 + [False] * 40
    # 5% of 40 + 1 is 2.05: the second lowest.
    scores = result.test.pixel_distance**2 / result.test.crowd_distance
    assert result.threshold == sorted(scores[:40].tolist())[1]
    assert result.feature_threshold == sorted(result.test.feature_distance[:40].tolist())[1]
    assert result.summary().test_share == sum(scores[40:] < result.threshold) / 40


@pytest.mark.fast
def test_summary_is_plain_arithmetic(result: Memorisation) -> None:
    one = result.summary()
    flagged = int(result.flagged.sum())
    assert (one.samples, one.near_copies, one.share, one.test_images) == (31, flagged, flagged / 31, 40)
    assert (one.rate, one.threshold) == (0.05, result.threshold)
    assert one.close_in_features == int((result.samples.feature_distance < result.feature_threshold).sum()) / 31
    for name, found in (("pixels", "pixel_distance"), ("features", "feature_distance")):
        distances = getattr(one, name)
        for side in ("samples", "test"):
            values = getattr(getattr(result, side), found).numpy()
            told = getattr(distances, side)
            assert list(told) == ["1%", "5%", "25%", "50%", "75%", "95%"]
            levels = [float(level[:-1]) / 100 for level in told]
            np.testing.assert_allclose(list(told.values()), np.quantile(values, levels), rtol=1e-12)
        assert distances.median_ratio == distances.samples["50%"] / distances.test["50%"]
    assert f"{flagged} of 31 samples ({flagged / 31:.1%}) are near-copies" in result.sentence()
    assert f"{one.test_share:.1%} of 40 held-out test images" in result.sentence()


@pytest.mark.fast
def test_same_seed_same_numbers(result: Memorisation, sets: tuple[ImageSet, ImageSet, Tensor], embed: Embed) -> None:
    train, test, samples = sets
    told: list[tuple[int, int]] = []
    again = memorisation(samples, train, test, embed, rate=0.05, progress=lambda *done: told.append(done))
    for side in ("samples", "test"):
        for name, value in vars(getattr(result, side)).items():
            assert torch.equal(getattr(getattr(again, side), name), value), name
    assert (again.threshold, again.feature_threshold) == (result.threshold, result.feature_threshold)
    assert [total for _, total in told] == [300 + 80 + 31] * len(told)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (411, 411)


@pytest.mark.fast
def test_exact_copies_are_flagged_even_where_test_images_are_training_images(
    sets: tuple[ImageSet, ImageSet, Tensor], embed: Embed
) -> None:
    train, test, _ = sets
    samples = torch.cat([train.gather([17]), test.gather([3])])
    leaked = memorisation(samples, train, subset(train, torch.arange(0, 300, 5)), embed, rate=0.05)
    assert leaked.threshold == 0
    assert leaked.flagged.tolist() == [True, False]
    assert leaked.samples.pixel_distance[0] == 0
    assert leaked.samples.feature_distance[0] == pytest.approx(0, abs=1e-4)
    assert leaked.summary().test_share == 1
    assert math.isnan(leaked.summary().pixels.median_ratio)


@pytest.mark.fast
def test_mirrored_copies_are_flagged_where_training_mirrors(
    sets: tuple[ImageSet, ImageSet, Tensor], embed: Embed
) -> None:
    train, test, _ = sets
    shoes = (train.labels == 7).nonzero()[:3, 0]  # sneakers: they have a side
    samples = plant(train.gather(shoes).flip(-1), 5, seed=1)
    found = memorisation(samples, train, test, embed, rate=0.05, mirrored=True)
    assert found.flagged.all()
    assert found.samples.mirrored.all()
    assert torch.equal(found.samples.pixel_index, shoes)
    assert not memorisation(samples, train, test, embed, rate=0.05).flagged.any()


@pytest.mark.fast
def test_image_shows_the_closest_first_each_beside_its_neighbours_in_place(
    sets: tuple[ImageSet, ImageSet, Tensor], embed: Embed
) -> None:
    train, test, _ = sets
    own = train.gather([40, 80])
    moved = torch.stack([own[0].roll((1, -2), (1, 2)), own[1].roll((-1, 1), (1, 2))])
    moved = moved.flip(-1)
    samples = torch.cat([test.gather([0]), (moved[:1].int() + 5).clamp(max=255).to(torch.uint8), moved[1:]])
    found = memorisation(samples, train, test, embed, rate=0.05, mirrored=True)
    sheet = neighbour_image(found, samples, train, max_rows=2)
    assert sheet.shape == (3, 2 * 34 - 2, 3 * 34 - 2)
    tiles = [[sheet[:, y : y + 32, x : x + 32] for x in (0, 34, 68)] for y in (0, 34)]
    assert torch.equal(tiles[0][0], samples[2])  # at distance 0
    assert torch.equal(tiles[0][1], samples[2])  # moved, and mirrored, onto the sample; the border of 2 px is black
    assert torch.equal(tiles[1][0], samples[1])
    assert torch.equal(tiles[1][1], moved[0])
    for row, sample in enumerate((2, 1)):
        assert torch.equal(tiles[row][2], train[int(found.samples.feature_index[sample])])
    assert neighbour_image(found, samples, train).shape[1] == 3 * 34 - 2


@pytest.mark.fast
def test_requests_that_cannot_be_met_are_refused(sets: tuple[ImageSet, ImageSet, Tensor], embed: Embed) -> None:
    train, test, samples = sets
    larger, few = dataclasses.replace(test, image_size=40), subset(train, torch.arange(20))
    for sentence, asked in {
        "samples are 28 x 32, training images 32 x 32": (samples[..., :28], train, test),
        "training images are 32 x 32, test images 40 x 40": (samples, train, larger),
        "20 training images beside the nearest; there are 20 in all": (samples, few, test),
        r"that 1\.00% of test images .* needs at least 198 of them, .* there are 80": (samples, train, test),
    }.items():
        with pytest.raises(UsageError, match=sentence):
            memorisation(*asked, embed)


# On Fashion-MNIST: test images that pass as samples, and of each level of noise as many planted copies

LEVELS = (5, 10, 15)  # standard deviation of the noise, in levels of 255


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many images of each kind there are."""

    train: int
    test: int
    fresh: int
    copies: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Sizes(1_500, 300, 50, 5), marks=pytest.mark.slow),
        pytest.param(Sizes(60_000, 4_000, 950, 50), marks=pytest.mark.soak),
    ],
    ids=["a-part", "everything"],
)
def planted(request: pytest.FixtureRequest, embed: Embed) -> tuple[Sizes, Memorisation, Tensor]:
    """Fresh test images and copies of each level as samples, and of which training images they are copies.

    What is found of a sample does not depend on the other samples, so this stands for three sets.
    """
    sizes = request.param
    try:
        train, test = (open_dataset(GARMENTS, 32, split=s, download=False) for s in ("train", "test"))  # type: ignore[arg-type]
    except UsageError:
        pytest.skip("Fashion-MNIST is not on this machine; `spherectl train fashion-mnist` fetches it")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(1))
    generators = [torch.Generator().manual_seed(level) for level in LEVELS]
    chosen = [torch.randperm(sizes.train, generator=generator)[: sizes.copies] for generator in generators]
    copies = [plant(train.gather(some), level, seed=level) for some, level in zip(chosen, LEVELS, strict=True)]
    samples = torch.cat([test.gather(order[: sizes.fresh]), *copies])
    others = subset(test, order[sizes.fresh :][: sizes.test])
    return sizes, memorisation(samples, subset(train, torch.arange(sizes.train)), others, embed), torch.cat(chosen)


def test_every_planted_copy_is_flagged_and_at_most_2_percent_of_fresh_images(
    planted: tuple[Sizes, Memorisation, Tensor],
) -> None:
    sizes, result, chosen = planted
    assert len(result.test) == sizes.test
    assert result.flagged[sizes.fresh :].all()
    assert torch.equal(result.samples.pixel_index[sizes.fresh :], chosen)
    assert result.flagged[: sizes.fresh].sum() <= 0.02 * sizes.fresh
    assert result.summary().test_share <= 0.02
    assert result.summary().pixels.test["50%"] > 3 * result.threshold
