"""The settings of sampling: each one stands here, with its type, bounds, default and help, and everything else derives.

The table [sample] of a recipe (`recipe.sample.SampleSpec`), the checks of `spherectl.generate`, an image's provenance
and the options of the command line are all made from `Sampling`. A new setting is one line here, its use in
`model.sampler`, and its name in the signatures of `spherectl.generate` and of the command `sample`. A test in
tests/api/test_generation.py fails until all agree.

A command builds its options from `options()`, which needs no torch and no pydantic:

    for one in options():
        typer.Option(one.flag, min=one.low, max=one.high, help=one.help)  # of type one.number, or a word of one.words
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from spherectl.checks import MAX_GUIDANCE, MAX_STEPS, check_number, check_whole

Guide = Literal["both", "encoder", "decoder"]
NoiseKind = Literal["shared", "fresh"]
Strength = Literal["constant", "decaying"]

MAX_NOISE_DEG = 90.0  # a right angle, whose tangent is infinite: not reached


@dataclass(frozen=True)
class Setting:
    """What an annotation of `Sampling` says beside the type.

    Attributes:
        help: one line for `--help`.
        ge, le, lt: bounds of a number, under pydantic's names.
    """

    help: str
    ge: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's question for a field's checks: those of the type, and the bounds for its numbers."""
        schema = handler(source)
        bounds = {key: value for key in ("ge", "le", "lt") if (value := getattr(self, key)) is not None}
        for one in schema.get("choices", [schema]):
            if one["type"] in ("int", "float"):
                one.update(bounds)
        return schema


class Sampling:
    """How images are sampled; `Recipe.sample` holds a model's own values."""

    steps: Annotated[int, Setting("Passes of the decoder.", ge=1, le=MAX_STEPS)] = 4
    guidance: Annotated[float, Setting("Guidance scale; 1 is off.", ge=1, le=MAX_GUIDANCE)] = 1.0
    guide: Annotated[Guide, Setting("The network that guidance acts on.")] = "both"
    noise: Annotated[NoiseKind, Setting("The same noise in all rounds, or fresh noise in each.")] = "shared"
    strength: Annotated[Strength, Setting("Noise of the rounds: full, or falling.")] = "constant"
    noise_deg: Annotated[
        float | Literal["training"],
        Setting("Largest angle of the rounds' noise, in degrees below 90.", ge=0, lt=MAX_NOISE_DEG),
    ] = "training"


class Option(NamedTuple):
    """A setting as a command or a form offers it.

    Attributes:
        name: of the setting, as `generate` and TOML spell it.
        help: one line.
        default: where neither the user nor the model says anything.
        number: int or float, where it may be a number.
        words: the words it may be; empty for a plain number.
        low, high, below: bounds of the number: at least, at most, less than.
    """

    name: str
    help: str
    default: Any
    number: type[int | float] | None
    words: tuple[str, ...]
    low: float | None
    high: float | None
    below: float | None

    @property
    def flag(self) -> str:
        """As in `--noise-deg`."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """A given value as the table takes it; numpy's and torch's numbers become Python's.

        Words are left to the table, which names all wrong ones together.

        Raises:
            UsageError: a number of another type or out of range.
        """
        name = f"sample.{self.name}"
        if self.number is None or (isinstance(value, str) and value in self.words):
            return value
        if self.number is int:
            return check_whole(value, name, int(self.low or 0), int(self.high or 0))
        below, high = (float("inf") if bound is None else bound for bound in (self.below, self.high))
        return check_number(value, name, self.low or 0.0, high, below=below)


def hints(settings: type = Sampling) -> dict[str, Any]:
    """The annotations of all settings, by name."""
    return get_type_hints(settings, include_extras=True)


@functools.cache
def options(settings: type = Sampling) -> tuple[Option, ...]:
    """All settings, in the order in which they are told."""
    found = []
    for name, hint in hints(settings).items():
        kind, setting = get_args(hint)
        branches = get_args(kind) if get_origin(kind) is not Literal else (kind,)
        number = next((one for one in branches or (kind,) if one in (int, float)), None)
        words = [word for one in branches if get_origin(one) is Literal for word in get_args(one)]
        bounds = (setting.ge, setting.le, setting.lt)
        found.append(Option(name, setting.help, getattr(settings, name), number, tuple(words), *bounds))
    return tuple(found)


def described(settings: Any) -> str:
    """Settings on one line: "steps 4, guidance 1, guide both, noise shared, strength constant, noise-deg training"."""
    values = ((one.flag[2:], getattr(settings, one.name)) for one in options())
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values)
