"""Classes as people type them: numbers, names, ranges, several, all, none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spherectl.errors import UsageError


def parse_classes(items: Sequence[str | int], names: Sequence[str], num_classes: int, model: str) -> list[int]:
    """Class numbers of what was typed, in order and with repetitions.

    Args:
        items: each a number, a name (any case, unique prefix), a range "2-5", "all", "none" (the null class), or several
            of these separated by commas.
        names: class names, or empty where the model has none.
        num_classes: classes of the model; the null class is `num_classes`.
        model: its name, for messages.

    Raises:
        UsageError: out of range, unknown, ambiguous, or a class for an unconditional model.
    """
    parts = [part.strip() for item in items for part in str(item).split(",")]
    if num_classes == 0 and any(part.lower() != "none" for part in parts):
        raise UsageError(f"{model} is unconditional: it has no classes, so --class {parts[0]} means nothing to it.")
    return [number for part in parts for number in _one(part, names, num_classes, model)]


def describe_classes(names: Sequence[str], num_classes: int) -> str:
    """ "10 classes (0-9: t-shirt ... ankle-boot)"."""
    some = f": {names[0]} ... {names[-1]}" if len(names) > 1 else ""
    return f"{num_classes} class{'es' * (num_classes != 1)} (0-{num_classes - 1}{some})"


def class_name(number: int, names: Sequence[str], num_classes: int) -> str:
    """Name of a class, its number where it has none, "none" for the null class."""
    if number == num_classes:
        return "none"
    return names[number] if number < len(names) else str(number)


def _one(text: str, names: Sequence[str], num_classes: int, model: str) -> list[int]:
    folded = _fold(text)
    if folded == "all":
        return list(range(num_classes))
    if folded == "none":
        return [num_classes]
    exact = [i for i, name in enumerate(names) if _fold(name) == folded]
    if re.fullmatch(r"\d+", text):
        return [_in_range(int(text), text, names, num_classes, model)]
    if exact:
        return exact[:1]
    if bounds := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = (_in_range(int(b), text, names, num_classes, model) for b in bounds.groups())
        if first > last:
            raise UsageError(f"--class {text}: a range goes from the smaller to the larger number.")
        return list(range(first, last + 1))
    matches = [i for i, name in enumerate(names) if folded and _fold(name).startswith(folded)]
    if len(matches) == 1:
        return matches
    if matches:
        some = ", ".join(names[i] for i in matches[:5]) + (", ..." if len(matches) > 5 else "")
        raise UsageError(f"--class {text} is ambiguous: it could be {some}.", "Type more of the name, or its number.")
    raise UnknownClassError(f"{model} has {describe_classes(names, num_classes)}, none of them called {text!r}.", text)


def _in_range(number: int, text: str, names: Sequence[str], num_classes: int, model: str) -> int:
    if number >= num_classes:
        raise UnknownClassError(f"{model} has {describe_classes(names, num_classes)}; --class {text} is out of range.", text)
    return number


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


class UnknownClassError(UsageError):
    """The model has no such class; another model may. `asked` is what was typed."""

    def __init__(self, message: str, asked: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.asked = asked
