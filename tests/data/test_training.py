"""Training on each kind of set by command line and loop: what it says, and that a resumed run is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from spherectl import recipe as recipes
from spherectl.cli.app import app
from spherectl.data.datasets import open_dataset
from spherectl.settings import load_settings, packaged
from spherectl.training.loop import train
from spherectl.training.plan import resolve

NANO = {
    "model": {"size": "nano", "image_size": 16, "patch_size": 8},
    "run": {"batch_size": 4, "length_images": 16, "dtype": "float32"},
    "loss": {"perceptual": "none"},
    "data": {"kind": "shards", "workers": 0},
}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`command("folder32", "--data", path)`: a training of the smallest network for four steps."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    runner = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1", "COLUMNS": "200"})

    def run(*arguments: str | Path, **changes: object) -> Result:
        settings = [f"--set={table}.{key}={value}" for table in NANO for key, value in NANO[table].items()]
        settings += [f"--set={key.replace('__', '.')}={value}" for key, value in changes.items()]
        return runner.invoke(app, ["train", "folder32", *map(str, arguments), *settings])

    return run


@pytest.fixture
def url(server, write_tar, labelled) -> str:
    """An index of 12 images in three shards, of three classes."""
    for i in range(3):
        write_tar(server.folder / "set" / f"{i}.tar", labelled(4 * i, [0, 1, 2, 0]))
    entries = [{"url": f"{i}.tar", "nsamples": 4} for i in range(3)]
    (server.folder / "set" / "classes.txt").write_text("cat\ndog\neel")
    (server.folder / "set" / "index.json").write_text(json.dumps({"wids_version": 1, "shardlist": entries}))
    return f"{server.url}set/index.json"


@pytest.mark.fast
def test_shards_over_http_from_the_command_line(command, url):
    dry = command("--data", url, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert "12 images of set, 3 classes; in shards fetched over HTTP, by which order and resume go" in dry.stdout
    assert not list(load_settings().cache.rglob("*.tar"))
    done = command("--data", url)
    assert done.exit_code == 0, done.stderr
    assert recipes.load(Path("runs/folder32/recipe.toml")).data.root == url
    assert "is finished" in command("--data", url).stderr


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly_though_the_cache_is_gone(url, tmp_path):
    cpu = torch.device("cpu")
    recipe = recipes.load(packaged("recipes") / "folder32.toml", NANO)

    def run(name: str, stop_after: int | None = None) -> list[float]:
        images = open_dataset(recipe.data, recipe.model.image_size, root=url)
        steps: list[int] = []
        train(
            resolve(recipe, images, cpu),
            images,
            tmp_path / name,
            device=cpu,
            on_step=lambda line: steps.append(int(line["step"])),
            should_stop=lambda: len(steps) + 1 == stop_after,  # asked within the step
        )
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    whole = run("whole")
    assert len(run("stopped", stop_after=2)) == 2
    shutil.rmtree(load_settings().cache / "shards")
    assert run("stopped") == whole
    assert len(whole) == 4


@pytest.mark.slow
def test_two_broken_images_in_a_hundred_stop_and_with_one_repaired_the_run_goes_on(command, tmp_path, image_bytes):
    changes = {"data__kind": "folder", "run__length_images": 100, "run__batch_size": 25}
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(100):
        (folder / f"{i:03d}.png").write_bytes(b"no image" if i in (7, 33) else image_bytes(i))
    stopped = command("--data", folder, **changes)
    assert stopped.exit_code == 1
    assert "2 images of one epoch of 100 cannot be read, which is over 1%" in stopped.stderr
    assert all(str(folder / name) in stopped.stderr for name in ("007.png", "033.png"))
    (folder / "033.png").write_bytes(image_bytes(33))
    done = command("--data", folder, **changes)
    assert done.exit_code == 0, done.stderr
