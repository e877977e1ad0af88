"""`spherectl features train` and `check` on a tiny set in Fashion-MNIST's format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from spherectl.cli.features import app
from spherectl.errors import FileError, UsageError
from spherectl.features.networks import build_network
from spherectl.features.store import read_feature_header, save_feature_network


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_train_writes_a_file_that_check_measures_alike(fashion_excerpt: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    said = run("train", "fashion-features", "--out", out, "--data", fashion_excerpt, "--epochs", "1")
    header = read_feature_header(out)
    assert (header["images_seen"], header["test_images"], header["plan"]["epochs"]) == (256, 100, 1)
    assert header["command"] == "spherectl features train fashion-features --epochs 1"
    assert f"{header['accuracy']:.2%} of 100 test images" in said
    measured = json.loads(run("check", out, "--data", fashion_excerpt, "--json"))
    assert measured["accuracy"] == measured["stated"] == header["accuracy"]
    assert measured["images"] == 100


@pytest.mark.fast
def test_check_fails_where_the_file_claims_more_than_it_does(fashion_excerpt: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "widths": [4], "blocks": [1]}
    network = build_network("residual", arguments)
    about = {"image_size": 32, "accuracy": 0.9, "data": "fashion-mnist"}
    save_feature_network(out, network, "residual", arguments, about)
    with pytest.raises(FileError, match="does not classify as its header says"):
        run("check", out, "--data", fashion_excerpt)


@pytest.mark.fast
def test_without_out_nothing_is_overwritten_and_an_unknown_name_lists_the_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fashion-scorer.safetensors").write_text("mine")
    with pytest.raises(UsageError, match=r"exists already.*--out fashion-scorer\.safetensors"):
        run("train", "fashion-scorer")
    assert Path("fashion-scorer.safetensors").read_text() == "mine"
    with pytest.raises(UsageError, match="Those there are: emoji-features, emoji-scorer, fashion-features"):
        run("train", "shoes")
