"""`spherectl recipes`: list, show, check."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from spherectl import recipe
from spherectl.cli.app import app
from spherectl.settings import packaged

pytestmark = pytest.mark.fast

RUNNER = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})
NAMES = sorted(path.stem for path in packaged("recipes").glob("*.toml"))


def run(*arguments: str):
    return RUNNER.invoke(app, ["recipes", *arguments])


def test_ls_has_a_line_for_each_recipe():
    result = run("ls")
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["name", "px", "size", "classes", "batch", "length", "summary"]
    assert [line.split()[0] for line in lines] == NAMES


def test_ls_for_machines_says_what_the_files_say():
    rows = {row["name"]: row for row in json.loads(run("ls", "--json").stdout)}
    assert sorted(rows) == NAMES
    assert rows["imagenet256"] | {"summary": ""} == {
        "name": "imagenet256",
        "px": 256,
        "size": "large",
        "classes": 1000,
        "batch": 256,
        "length": "800 epochs",
        "summary": "",
    }
    assert (rows["animal-faces256"]["classes"], rows["folder32"]["classes"]) == ("none", "the data's")


@pytest.mark.parametrize("name", ["debug", "imagenet256"])
def test_show_prints_the_file_as_it_is(name):
    result = run("show", name)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (packaged("recipes") / f"{name}.toml").read_text(encoding="utf-8")
    assert recipe.loads(result.stdout) == recipe.load(packaged("recipes") / f"{name}.toml")  # a start for one's own


def test_show_of_an_unknown_recipe_is_a_sentence():
    result = run("show", "imagnet256")
    assert (result.exit_code, result.stdout) == (2, "")
    told, hint = result.stderr.splitlines()
    assert told == "error: There is no recipe 'imagnet256'."
    assert hint.startswith("hint: Did you mean imagenet256")


def test_check_of_all_shipped_recipes():
    result = run("check", *NAMES, "--set", "optim.lr=2e-4")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{name}: ok" for name in NAMES]


def test_check_names_every_mistake_at_once(tmp_path):
    path = tmp_path / "mine.toml"
    tables = ['[model]\nsise = "base"\nimage_size = -1', '[optim]\nlr = "fast"', "[run]\nlength_epochs = 1", "[sampel]"]
    path.write_text("\n".join(['name = "mine"', *tables]), encoding="utf-8")
    result = run("check", str(path), "cifar10")
    assert result.exit_code == 2
    assert result.stdout == "cifar10: ok\n"  # the others are checked all the same
    told = result.stderr.splitlines()[0]
    assert told.startswith(f"error: {path}: ")
    for words in (
        "model.sise (did you mean model.size?)",
        "sampel (did you mean sample?)",
        "model.image_size: ",
        "optim.lr: ",
    ):
        assert words in told


def test_the_worst_mistake_decides_the_exit_code(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    result = run("check", str(tmp_path / "a.toml"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: Cannot read the recipe {tmp_path / 'a.toml'}")
    assert run("check", str(tmp_path / "a.toml"), "no-such-recipe").exit_code == 2
