"""Classes as people type them: numbers, names, ranges, several, all, none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from spherectl.data.sets import records
from spherectl.errors import FileError, UsageError
from spherectl.shown import listed, quoted, shortened

# Of a data set, and characters in the name of one. A network with a million classes holds little else.
MAX_CLASSES = 1_000_000
MAX_CLASS_NAME = 1_000

_NUMBER = re.compile(r"-?[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


def names_of(data: str, num_classes: int) -> tuple[str, ...]:
    """Names of a model's classes, by what its data or recipe is called; empty if that tells nothing.

    Args:
        data: such as "imagenet256", "oxford-flowers" or "cifar-10".
        num_classes: of the model, which must be as many as the set has.
    """
    for record in records().values():
        if record.called and re.search(record.called, data.lower()) and len(record.class_names) == num_classes:
            return record.class_names
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


def class_name_problem(name: object) -> str:
    """Why a value cannot be the name of a class, as in "expected a name, got 7"; empty where it can."""
    if not isinstance(name, str) or not name.strip():
        return f"expected a name, got {quoted(name)}"
    if len(name) > MAX_CLASS_NAME:
        return f"a name of {len(name):,} characters is longer than {MAX_CLASS_NAME:,}: {quoted(name)}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"{quoted(name)} is not UTF-8, so that no model file can hold it"
    return ""


def check_class_names(names: object, what: str) -> tuple[str, ...]:
    """The names of a set's classes, in the order of their numbers.

    Args:
        names: of a stranger, to be a list with a name for every class.
        what: begins the errors.

    Raises:
        FileError: it is none, is empty or has more than `MAX_CLASSES`, or a name is no text of at most
            `MAX_CLASS_NAME` characters.
    """
    if not isinstance(names, list) or not names:
        raise FileError(f"{what}: expected a name for every class, in the order of their numbers, got {quoted(names)}.")
    if len(names) > MAX_CLASSES:
        raise FileError(f"{what}: {len(names):,} classes are more than {MAX_CLASSES:,}.")
    for number, name in enumerate(names):
        if problem := class_name_problem(name):
            raise FileError(
                f"{what}: expected a name for every class; class {number}: {problem}.",
                "Folders of an old disk are renamed all at once by: convmv -f latin1 -t utf8 -r --notest FOLDER"
                if "UTF-8" in problem
                else "",
            )
    return tuple(names)


def parse_classes(items: str | Sequence[str | int], names: Sequence[str], num_classes: int, model: str) -> list[int]:
    """Class numbers of what was typed, in order and with repetitions.

    Names go before numbers, and what may be either is refused: where the classes are called 1, 10, 2 and 20, "1" may be
    class 0 of that name, or class 1, called 10. A range is of numbers, so that "0-0" is class 0; so is an integer.

    Args:
        items: one or several, each a number, a name (any case; a unique beginning of it, or of a word in it, will do),
            a range of numbers "2-5", "all", "none" (the null class), or several of these separated by commas.
        names: class names, or empty where the model has none.
        num_classes: classes of the model; the null class is `num_classes`.
        model: its name, for messages.

    Raises:
        UsageError: nothing at all, out of range, unknown, ambiguous, or a class for an unconditional model.
    """
    asked = [items] if isinstance(items, str) else items
    parts = [part for item in asked for part in (_split(item, names) if isinstance(item, str) else [item])]
    if not parts:
        raise UsageError("Expected at least one class, got none.")
    if num_classes == 0 and any(_fold(str(part)) != "none" for part in parts):
        raise UsageError(f"{model} is unconditional: it has no classes, so {quoted(parts[0])} means nothing to it.")
    known = f"{model} has {describe_classes(names, num_classes)}"
    return [
        number
        for part in parts
        for number in (
            _one(part, names, num_classes, known)
            if isinstance(part, str)
            else [_in_range(part, str(part), names, num_classes, known)]
        )
    ]


def describe_classes(names: Sequence[str], num_classes: int) -> str:
    """Number and names of a model's classes, as in "10 classes (0-9: t-shirt ... ankle-boot)"."""
    first, last = (shortened(names[i], 40) if names else "" for i in (0, -1))
    if num_classes == 1:
        return f"1 class (0{f': {first}' if names else ''})"
    some = f": {first} ... {last}" if names else ""
    return f"{num_classes} classes (0-{num_classes - 1}{some})"


def _split(text: str, names: Sequence[str]) -> list[str]:
    """The parts of a list with commas; a name that has commas itself is one part."""
    if any(_fold(name) == _fold(text) for name in names):
        return [text.strip()]
    return [part.strip() for part in text.split(",")]


def _one(text: str, names: Sequence[str], num_classes: int, known: str) -> list[int]:
    folded = _fold(text)
    exact = [i for i, name in enumerate(names) if _fold(name) == folded or _same_number(name, text)]
    if folded in ("all", "none"):
        meant = list(range(num_classes)) if folded == "all" else [num_classes]
        _refuse_ambiguous(text, exact, names, f"the word for {'all classes' if folded == 'all' else 'no class'}")
        return meant
    if _NUMBER.fullmatch(text):
        number = int(text)
        if exact and exact != [number] and 0 <= number < num_classes:
            other = f"the number of class {number}, {shortened(names[number], 40)}"
            _refuse_ambiguous(text, exact, names, other, f", or {number}-{number} for the class of that number")
        if not exact:
            return [_in_range(number, text, names, num_classes, known)]
    if not exact and (bounds := _RANGE.fullmatch(text)):
        first, last = (_in_range(int(bound), text, names, num_classes, known) for bound in bounds.groups())
        if first > last:
            raise UsageError(f"The range {text} is empty: it goes from the smaller number to the larger.")
        return list(range(first, last + 1))
    matches = exact or _beginning_with(folded, names)
    if len(matches) == 1:
        return matches
    if matches:
        some = listed((f"{shortened(names[i], 40)} ({i})" for i in matches), 5)
        raise UsageError(
            f"The class {quoted(text)} is ambiguous: it could be {some}.", "Type more of the name, or a number."
        )
    if not names:
        raise UsageError(f"{known} without names.", f"Give a number instead of {quoted(text)}.")
    near = difflib.get_close_matches(folded[:MAX_CLASS_NAME], [_fold(name) for name in names], n=1)
    hint = f"Did you mean {near[0]}?" if near else ""
    raise UnknownClassError(known, f"none is called {quoted(text)}", text, hint)


def _refuse_ambiguous(text: str, exact: Sequence[int], names: Sequence[str], other: str, rest: str = "") -> None:
    if exact:
        raise UsageError(
            f"The class {quoted(text)} is ambiguous: it is the name of class {exact[0]}, and {other}.",
            f"Type {exact[0]}-{exact[0]} for the class called {shortened(names[exact[0]], 40)}{rest}.",
        )


def _same_number(name: str, text: str) -> bool:
    """Whether a name is the number that was typed, as "01" is 1."""
    return bool(_NUMBER.fullmatch(name) and _NUMBER.fullmatch(text)) and int(name) == int(text)


def _beginning_with(folded: str, names: Sequence[str]) -> list[int]:
    """Names that begin so; if none does, those in which a word begins so ("husky" is the Siberian husky)."""
    if not folded:
        return []
    first = [i for i, name in enumerate(names) if _fold(name).startswith(folded)]
    return first or [i for i, name in enumerate(names) if f"-{folded}" in _fold(name)]


def _in_range(number: int, text: str, names: Sequence[str], num_classes: int, known: str) -> int:
    if not 0 <= number < num_classes:
        if any(_NUMBER.fullmatch(name) for name in names):  # nobody asks this model's classes of another
            raise UsageError(f"{known}; there is no class {text}.", f"They are called {listed(names, 20)}.")
        raise UnknownClassError(known, f"there is no class {text}", text)
    return number


def _fold(name: str) -> str:
    """What is compared: any case, and spaces, hyphens and underscores alike."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower())
