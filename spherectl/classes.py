"""Classes as people type them: numbers, names, ranges, several, all, none."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from spherectl.errors import UsageError

Named = Literal["imagenet", "flowers102", "cifar10"]

# Words by which people call those sets, in a recipe's name or a published checkpoint's.
_CALLED: dict[Named, str] = {"imagenet": r"imagenet|ilsvrc", "flowers102": r"flower", "cifar10": r"cifar[-_ ]?10(?!0)"}


@functools.cache
def known_class_names(dataset: Named) -> tuple[str, ...]:
    """The names of a known set's classes, class 0 first (spherectl/class_names/SOURCES.md says where they are from)."""
    text = (Path(__file__).parent / "class_names" / f"{dataset}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def names_of(data: str, num_classes: int) -> tuple[str, ...]:
    """Names of a model's classes, by what its data or recipe is called; empty if that tells nothing.

    Args:
        data: such as "imagenet256", "oxford-flowers" or "cifar-10".
        num_classes: of the model, which must be as many as the set has.
    """
    for dataset, words in _CALLED.items():
        if re.search(words, data.lower()) and len(known_class_names(dataset)) == num_classes:
            return known_class_names(dataset)
    return ()


class UnknownClassError(UsageError):
    """The model has no such class; another model may.

    Args:
        known: what the model has, as in "fashion-mnist has 10 classes (0-9: t-shirt ... ankle-boot)".
        problem: what was asked for beyond that, as in "it has no class 207".
        asked: the class as it was typed.
        hint: what to type instead, if something is near.
    """

    def __init__(self, known: str, problem: str, asked: str, hint: str = "") -> None:
        super().__init__(f"{known}; {problem}.", hint)
        self.known, self.asked = known, asked


def parse_classes(items: str | Sequence[str | int], names: Sequence[str], num_classes: int, model: str) -> list[int]:
    """Class numbers of what was typed, in order and with repetitions.

    A number is always a class number, also where names look like numbers.

    Args:
        items: one or several, each a number, a name (any case; its beginning, or that of a word in it, if that is
            unique), a range "2-5", "all", "none" (the null class), or several of these separated by commas.
        names: class names, or empty where the model has none.
        num_classes: classes of the model; the null class is `num_classes`.
        model: its name, for messages.

    Raises:
        UsageError: nothing at all, out of range, unknown, ambiguous, or a class for an unconditional model.
    """
    asked = [items] if isinstance(items, str) else items
    parts = [part for item in asked for part in _split(str(item), names)]
    if not parts:
        raise UsageError("Expected at least one class, got none.")
    if num_classes == 0 and any(_fold(part) != "none" for part in parts):
        raise UsageError(f"{model} is unconditional: it has no classes, so {parts[0]!r} means nothing to it.")
    return [number for part in parts for number in _one(part, names, num_classes, model)]


def describe_classes(names: Sequence[str], num_classes: int) -> str:
    """Number and names of a model's classes, as in "10 classes (0-9: t-shirt ... ankle-boot)"."""
    if num_classes == 1:
        return f"1 class (0{f': {names[0]}' if names else ''})"
    some = f": {names[0]} ... {names[-1]}" if names else ""
    return f"{num_classes} classes (0-{num_classes - 1}{some})"


def _split(text: str, names: Sequence[str]) -> list[str]:
    """The parts of a list with commas; a name that has commas itself is one part."""
    if any(_fold(name) == _fold(text) for name in names):
        return [text.strip()]
    return [part.strip() for part in text.split(",")]


def _one(text: str, names: Sequence[str], num_classes: int, model: str) -> list[int]:
    folded = _fold(text)
    if folded in ("all", "none"):
        return list(range(num_classes)) if folded == "all" else [num_classes]
    known = f"{model} has {describe_classes(names, num_classes)}"
    if re.fullmatch(r"-?\d{1,18}", text):
        return [_in_range(text, text, known, num_classes)]
    exact = [i for i, name in enumerate(names) if _fold(name) == folded]
    if not exact and (bounds := re.fullmatch(r"(\d{1,18})-(\d{1,18})", text)):
        first, last = (_in_range(bound, text, known, num_classes) for bound in bounds.groups())
        if first > last:
            raise UsageError(f"The range {text} is empty: it goes from the smaller number to the larger.")
        return list(range(first, last + 1))
    matches = exact or _beginning_with(folded, names)
    if len(matches) == 1:
        return matches
    if matches:
        some = ", ".join(f"{names[i]} ({i})" for i in matches[:5])
        some += f" and {len(matches) - 5} more" if len(matches) > 5 else ""
        raise UsageError(f"The class {text!r} is ambiguous: it could be {some}.", "Type more of the name, or a number.")
    if not names:
        raise UsageError(f"{known} without names.", f"Give a number instead of {text!r}.")
    near = difflib.get_close_matches(folded, [_fold(name) for name in names], n=1)
    hint = f"Did you mean {near[0]}?" if near else ""
    raise UnknownClassError(known, f"none is called {text!r}", text, hint)


def _beginning_with(folded: str, names: Sequence[str]) -> list[int]:
    """Names that begin so; if none does, those in which a word begins so ("husky" is the Siberian husky)."""
    if not folded:
        return []
    first = [i for i, name in enumerate(names) if _fold(name).startswith(folded)]
    return first or [i for i, name in enumerate(names) if f"-{folded}" in _fold(name)]


def _in_range(digits: str, text: str, known: str, num_classes: int) -> int:
    number = int(digits)
    if not 0 <= number < num_classes:
        raise UnknownClassError(known, f"there is no class {text}", text)
    return number


def _fold(name: str) -> str:
    """What is compared: any case, and spaces, hyphens and underscores alike."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower())
