"""Arguments of the Python API, each wrong in the ways that arguments are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spherectl.checks import MAX_SEED, check_choice, check_number, check_seed, check_whole
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast


def test_what_is_no_number_in_range_is_one_short_sentence_and_numbers_of_any_library_become_pythons() -> None:
    for value in (None, True, "3", [3], 10**5000, math.nan, math.inf, torch.tensor([1, 2]), 3.5, 11, -1):
        with pytest.raises(UsageError, match="count: expected a whole number from 1 to 10, got ") as caught:
            check_whole(value, "count", 1, 10)
        assert len(caught.value.message) < 300
        with pytest.raises(UsageError, match=r"angle: expected a finite number from 0 below 3\.5, got "):
            check_number(value, "angle", 0, below=3.5)
    for value in (3, np.int8(3), np.uint64(3), torch.tensor(3), np.float32(3), 3.0):
        if not isinstance(value, float | np.float32):
            assert type(check_whole(value, "count", 1, 3)) is int
        assert type(check_number(value, "scale", 3, 3)) is float
    assert check_number(math.nextafter(90, 0), "angle", below=90) < 90


def test_seeds_have_64_bits() -> None:
    assert check_seed(MAX_SEED) == 2**64 - 1
    for wrong in (-1, 2**64, True, "7"):
        with pytest.raises(UsageError, match="seed: expected a whole number from 0 to 18446744073709551615"):
            check_seed(wrong)


def test_a_choice_is_one_of_those_there_are() -> None:
    assert check_choice("raw", ("ema", "raw"), "weights") == "raw"
    assert check_choice(False, (False, True), "compile") is False
    for wrong in ("avg", None, 0, ["ema"], np.array(["ema", "raw"]), "e" * 100_000):
        with pytest.raises(UsageError, match="weights: expected one of ema, raw, got ") as caught:
            check_choice(wrong, ("ema", "raw"), "weights")
        assert len(caught.value.message) < 300
    for number in (0, 1, "no"):
        with pytest.raises(UsageError, match="compile: expected one of False, True"):
            check_choice(number, (False, True), "compile")
