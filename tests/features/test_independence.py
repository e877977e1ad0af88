"""The refusal to score a model with its own loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spherectl.errors import UsageError
from spherectl.features import store
from spherectl.features.independence import check_independent
from spherectl.features.networks import build_network
from spherectl.recipe import Recipe, loads

pytestmark = pytest.mark.fast

ARGUMENTS = {"num_classes": 3, "widths": [4, 5, 6], "blocks": [1, 1, 1]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two different small networks, ./loss-net and ./other-net."""
    for seed, name in enumerate(("loss-net", "other-net")):
        torch.manual_seed(seed)
        network = build_network("residual", ARGUMENTS)
        about = {"image_size": 32, "class_names": ["a", "b", "c"]}
        store.save_feature_network(tmp_path / name, network, "residual", ARGUMENTS, about)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    return loads('name = "r"\n[loss]\nperceptual = "features:loss-net"\n[run]\nlength_epochs = 1\n')


def test_a_renamed_copy_of_the_loss_network_is_refused_too(here: Path, recipe: Recipe, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "innocent.safetensors"
    store.save_feature_network(copy, store.load_feature_network("loss-net"), "residual", ARGUMENTS, {"image_size": 32})
    for scorer in ("loss-net", copy, str(here / "loss-net"), store.load_feature_network(copy)):
        with pytest.raises(UsageError, match="trained against the features of loss-net"):
            check_independent(recipe, scorer)


def test_another_network_may_score_and_so_may_any_where_the_loss_names_none(here: Path, recipe: Recipe) -> None:
    check_independent(recipe, "other-net")
    check_independent(recipe, store.load_feature_network("other-net"))
    check_independent(recipe.replace(loss={"perceptual": "none"}), "loss-net")
