"""A whole recipe: its tables, which of them go together, and what depends on the data."""

from __future__ import annotations

import math
from typing import Annotated, Any

import tomli_w
from pydantic import Field, ValidationError, model_validator

from spherectl.errors import UsageError
from spherectl.recipe.data import DataSpec
from spherectl.recipe.limits import MAX_NAME, Text
from spherectl.recipe.loss import LossSpec
from spherectl.recipe.model import ModelSpec
from spherectl.recipe.noise import RADIANS_PER_DEGREE, NoiseSpec
from spherectl.recipe.optim import OptimSpec
from spherectl.recipe.run import RunSpec
from spherectl.recipe.sample import SampleSpec
from spherectl.registry import NETWORKS
from spherectl.shown import listed
from spherectl.tables import Spec, flatten, merge, split_unknown, without_none
from spherectl.validation import describe

NAME = "lower-case letters, digits, '.', '_' or '-', with a letter or digit first"

# Keys that say how a training is computed, not what it is: a run goes on with others, on another machine.
HOW = (
    "data.workers",
    "run.activation_checkpointing",
    "run.compile",
    "run.loggers",
    "run.micro_batch_size",
    "run.parallel",
)


class Recipe(Spec):
    """A whole recipe."""

    name: Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[a-z0-9][a-z0-9._-]*\z", description=NAME)]
    summary: Text = ""
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    noise: NoiseSpec = NoiseSpec()
    loss: LossSpec = LossSpec()
    optim: OptimSpec = OptimSpec()
    run: RunSpec = RunSpec(length_epochs=1)
    sample: SampleSpec = SampleSpec()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        check = NETWORKS[self.model.kind].problems
        problems = check(self) if check is not None else []
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def round_sigma(self, settings: SampleSpec) -> float:
        """Largest strength of the noise between steps: the tangent of its own angle, or of training's."""
        if settings.noise_deg == "training":
            return self.noise.sigma_max
        return math.tan(settings.noise_deg * RADIANS_PER_DEGREE)

    def to_table(self) -> dict[str, Any]:
        """Plain nested dict for TOML or JSON; keys without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The recipe as TOML text; `loads` reads it back equal."""
        return tomli_w.dumps(self.to_table())

    def replace(self, **tables: dict[str, Any]) -> Recipe:
        """A copy with some keys of some tables changed, validated anew: `replace(run={"seed": 1})`.

        None takes a key away, so that its default counts again. A length given in epochs replaces one in images, and
        the other way round.

        Raises:
            UsageError: a key is unknown, or a value is not allowed.
        """
        merged = merge(self.to_table(), tables)
        return parse(without_none(merged), source=f"recipe {self.name}")

    def resolve(self, images: int, num_classes: int) -> Recipe:
        """Replace epochs by images and "auto" by what the data has.

        Args:
            images: images in the training set.
            num_classes: classes in the training set; 0 where it has no labels.

        Raises:
            UsageError: the recipe names another number of classes than the data has.
        """
        wanted = self.model.num_classes
        if wanted not in ("auto", 0, num_classes):
            raise UsageError(
                f"The recipe {self.name} expects {wanted} classes (model.num_classes); the data has {num_classes}.",
                "Give --data a folder with one sub-folder a class, or --set model.num_classes=auto.",
            )
        length, warmup = self.run.length_images, self.optim.warmup_images
        if length is None:
            length = max(1, round((self.run.length_epochs or 0) * images))
        if warmup is None:
            warmup = round((self.optim.warmup_epochs or 0) * images)
        return self.replace(
            model={"num_classes": num_classes if wanted == "auto" else wanted},
            run={"length_epochs": None, "length_images": length},
            optim={"warmup_epochs": None, "warmup_images": warmup},
        )


def parse(table: dict[str, Any], source: str) -> Recipe:
    """Validate a nested dict as a recipe.

    Args:
        table: the tables as `tomllib` reads them.
        source: where they come from, a path or "recipe NAME"; the error begins with it.

    Raises:
        UsageError: names every unknown key and every bad value at once, each with its dotted path.
    """
    known, problems = split_unknown(table, Recipe)
    recipe = None
    try:
        recipe = Recipe.model_validate(known)
    except ValidationError as error:
        problems += describe(error, Recipe)
    if problems or recipe is None:
        hint = "`spherectl recipes show imagenet256` prints one to compare with."
        raise UsageError(f"{source}: {listed(problems, separator='; ')}.", hint)
    return recipe


def differing_keys(a: Recipe, b: Recipe) -> list[str]:
    """Dotted paths at which two recipes are different trainings, sorted; those of `HOW` are not among them."""
    flat_a, flat_b = flatten(a.to_table()), flatten(b.to_table())
    keys = (flat_a.keys() | flat_b.keys()) - set(HOW)
    return sorted(key for key in keys if flat_a.get(key) != flat_b.get(key))
