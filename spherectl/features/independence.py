"""No model is scored by the network of its own loss: it would score well, whatever its images look like."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from spherectl.errors import UsageError
from spherectl.features.store import fingerprint, load_feature_network
from spherectl.recipe import Recipe


def check_independent(recipe: Recipe, network: str | Path | nn.Module) -> None:
    """Refuse to score a model with the network it was trained against, by name or as a copy of the same weights.

    Args:
        recipe: of the model to be scored.
        network: the network that would score it: a zoo name, a path, or the module itself.

    Raises:
        UsageError: it is the one that the recipe's `loss.perceptual` names, or that one is not here to compare with.
    """
    name = recipe.loss.features
    if not name:
        return
    own = fingerprint(load_feature_network(name))  # not here: nothing can vouch for the score, so the error stands
    scorer = network if isinstance(network, nn.Module) else load_feature_network(network)
    if fingerprint(scorer) == own:
        raise UsageError(
            f"The model {recipe.name} was trained against the features of {name} (loss.perceptual), so a score by that "
            "network would flatter it.",
            "Score it with another network: `spherectl zoo ls` lists them.",
        )
