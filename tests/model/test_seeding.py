"""SPEC 11 against the published known answers of Philox-4x32-10 and stored values of several streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spherectl.model import seeding

pytestmark = pytest.mark.fast

VECTORS = json.loads((Path(__file__).parents[1] / "reference" / "seeding.json").read_text())


@pytest.mark.parametrize("case", VECTORS["known_answers"], ids=lambda c: c["key"][0])
def test_philox_gives_the_published_known_answers(case: dict[str, list[str]]) -> None:
    counter = tuple(torch.tensor(int(word, 16)) for word in case["counter"])
    key = tuple(int(word, 16) for word in case["key"])
    assert [f"{int(word):08x}" for word in seeding.philox(counter, key)] == case["out"]  # type: ignore[arg-type]


@pytest.mark.parametrize("case", VECTORS["streams"], ids=lambda c: f"seed{c['seed']}-stream{c['stream']}")
def test_streams_match_stored_values(case: dict[str, object]) -> None:
    arguments = (case["seed"], case["stream"], torch.tensor([case["i"]]), 6, case["k"])
    assert seeding.words(*arguments)[0].tolist() == case["words"]  # type: ignore[arg-type]
    assert seeding.uniform(*arguments)[0].tolist() == case["uniform"]  # type: ignore[arg-type]
    expected = torch.tensor(case["normal"], dtype=torch.float64)
    torch.testing.assert_close(seeding.normal(*arguments)[0], expected, rtol=1e-14, atol=1e-15)  # type: ignore[arg-type]


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    together = seeding.noise(3, seeding.INITIAL, torch.arange(9), (5, 7))
    for i in (0, 4, 8):
        assert torch.equal(together[i], seeding.noise(3, seeding.INITIAL, torch.tensor([i]), (5, 7))[0])


def test_permutation_is_one_and_changes_with_its_index() -> None:
    first, second = seeding.permutation(0, seeding.ORDER, 0, 1000), seeding.permutation(0, seeding.ORDER, 1, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)
