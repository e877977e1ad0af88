"""Arguments of the Python API: of the type that is meant and within stated bounds, else one sentence.

`True` is no number here, and neither is text that looks like one.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterable
from typing import TypeVar

from spherectl.errors import UsageError
from spherectl.shown import listed, quoted

T = TypeVar("T")

MAX_SEED = 2**64 - 1  # a seed is two words of 32 bits in `model.seeding`
MAX_COUNT = 10_000_000  # images of one run; ImageNet has 1.3 million
MAX_INDEX = 2**32 - 1  # number of an image, one word of the counter of `model.seeding`
MAX_BATCH = 8_192  # images computed together; larger ones gain nothing on any device that was measured
MAX_STEPS = 1_000  # passes of the decoder; images stop changing after a few
MAX_THREADS = 1_024  # of one process; more than any machine's cores
MAX_GUIDANCE = 1_000.0  # scale; images are white noise long before


def check_choice(value: object, choices: Iterable[T], name: str) -> T:
    """One of a closed set of values.

    Args:
        value: what was given.
        choices: what there is; of one type.
        name: of the argument.

    Raises:
        UsageError: it is none of them; 1 is not True.
    """
    known = tuple(choices)
    for choice in known:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise UsageError(f"{name}: expected one of {listed(known)}, got {quoted(value)}.")


def check_whole(value: object, name: str, low: int = 0, high: int = MAX_COUNT) -> int:
    """A whole number from `low` to `high`, as an int; numpy's whole numbers are taken too.

    Raises:
        UsageError: it is none, or out of range.
    """
    number = as_whole(value)
    if number is None or not low <= number <= high:
        raise UsageError(f"{name}: expected a whole number from {low} to {high}, got {quoted(value)}.")
    return number


def as_whole(value: object) -> int | None:
    """Python's, numpy's or torch's whole number as an int; None of anything else, True and 1.0 among it."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_seed(value: object, name: str = "seed") -> int:
    """A seed of 64 bits.

    Raises:
        UsageError: it is none.
    """
    return check_whole(value, name, 0, MAX_SEED)


def check_number(
    value: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """A finite number of at least `low` and at most `high`, more than `above` and less than `below`.

    Raises:
        UsageError: it is none, not finite, or out of range.
    """
    number = math.nan
    if not isinstance(value, bool | str | bytes):
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):  # the last: torch's, for several
            number = float(value)  # type: ignore[arg-type]
    if not (math.isfinite(number) and low <= number <= high and above < number < below):
        bounds = [f"from {low:g}"] if low > -math.inf else []
        bounds += [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"to {high:g}"] if high < math.inf else []
        bounds += [f"below {below:g}"] if below < math.inf else []
        raise UsageError(f"{' '.join([f'{name}: expected a finite number', *bounds])}, got {quoted(value)}.")
    return number
