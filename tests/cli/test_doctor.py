"""`spherectl doctor`: it tells what is so, and one broken thing does not hide the others."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from spherectl.cli.app import app
from spherectl.model import kernels
from spherectl.model.attention import explain
from spherectl.settings import Settings

pytestmark = pytest.mark.fast

RUNNER = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})


def run(*arguments: str):
    return RUNNER.invoke(app, ["doctor", *arguments])


def report() -> dict:
    result = run("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_it_has_all_sections_in_both_forms():
    sections = ["versions", "machine", "attention", "settings", "data", "features", "loggers", "model"]
    assert list(report()) == sections
    lines = run().stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == sections


def test_a_missing_package_is_told(monkeypatch):
    def version(name: str) -> str:
        if name == "xformers":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    versions = report()["versions"]
    assert (versions["xformers"], versions["python"]) == ("not installed", platform.python_version())
    assert (versions["torch"], versions["typer"]) == (torch.__version__, real("typer"))


def test_settings_are_told_with_their_origin(monkeypatch, tmp_path):
    (tmp_path / "config.toml").write_text('device = "cpu"\n', encoding="utf-8")
    monkeypatch.setenv("SPHERECTL_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("SPHERECTL_RUNS", "elsewhere")
    settings = report()["settings"]
    assert settings.keys() == Settings.model_fields.keys() | {"config"}
    assert settings["device"] == f"cpu ({tmp_path / 'config.toml'})"
    assert settings["runs"] == "elsewhere (SPHERECTL_RUNS)"
    assert settings["offline"] == "False (default)"
    assert settings["config"] == str(tmp_path / "config.toml")


def test_the_machine_is_told(monkeypatch):
    monkeypatch.setenv("SPHERECTL_DEVICE", "cpu")
    found = report()
    machine = found["machine"]
    assert (machine["device"], machine["threads"]) == ("cpu", torch.get_num_threads())
    assert 1 <= machine["cores"] <= (os.cpu_count() or 1)
    assert machine["kernels"] == kernels.explain()
    assert machine["cache_free"].endswith(" GB")  # of the disk it would be on: the folder itself does not exist yet
    assert found["attention"] == explain(torch.device("cpu"))


@pytest.mark.parametrize(
    ("amx", "words"),
    [(True, "fast: oneDNN with AMX"), (False, "slow: this processor has no instructions for it")],
)
def test_bfloat16_is_told_by_hardware(monkeypatch, amx, words):
    monkeypatch.setenv("SPHERECTL_DEVICE", "cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert report()["machine"]["bfloat16"] == words


def test_what_would_compile_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SPHERECTL_DEVICE", "cpu")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    machine = report()["machine"]
    assert (machine["tf32"], machine["compile"]) == ("not on this cpu", "not possible: no /nowhere/c++")
    compiler = tmp_path / "c++"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert report()["machine"]["compile"] == str(compiler)


def test_data_sets_are_told_where_train_would_find_them(monkeypatch, tmp_path, fashion_excerpt):
    (tmp_path / "fashion-mnist").symlink_to(fashion_excerpt, target_is_directory=True)
    monkeypatch.setenv("SPHERECTL_DATA", str(tmp_path))
    data = report()["data"]
    assert Path(data["fashion-mnist"]).resolve() == fashion_excerpt
    assert data["cifar10"] == "not found"


def test_the_model_that_would_be_used_is_told_with_its_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("SPHERECTL_RUNS", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").touch()
    assert report()["model"] == {
        "default": f"{tmp_path / 'mine'} (newest run)",
        "file": str(tmp_path / "mine" / "model.safetensors"),
    }


def test_one_broken_thing_does_not_hide_the_others(monkeypatch):
    monkeypatch.setenv("SPHERECTL_MODEL", "no-such-model")
    found = report()
    assert found["model"]["error"].startswith("There is no model 'no-such-model'")
    assert found["versions"]["torch"] == torch.__version__


def test_broken_settings_are_told_with_the_rest_of_the_report(monkeypatch):
    monkeypatch.setenv("SPHERECTL_DEVICE", "gpu")
    monkeypatch.setenv("SPHERECTL_MODLE", "x")
    result = run("--json")
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert "SPHERECTL_DEVICE" in told["settings"]["error"]
    assert told["machine"]["cores"] >= 1
    assert told["versions"]["torch"] == torch.__version__
    assert result.stderr.startswith("error: Settings: unknown variable SPHERECTL_MODLE")
