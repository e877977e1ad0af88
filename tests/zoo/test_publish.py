"""Publishing: the file has the averaged weights and a header with what was measured; one entry of the index changes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from spherectl.files import file_hash
from spherectl.model.formats.weights import Package, read_package, write_package
from spherectl.zoo import read_index
from tools import publish

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "zoo" / "fashion-mnist.safetensors"
SCRATCH = ROOT / "zoo" / "emoji.safetensors"  # of a run that began from no other model

pytestmark = pytest.mark.fast


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(ROOT / "zoo" / "index.toml", folder)
    return folder


@pytest.fixture
def command(zoo: Path, monkeypatch: pytest.MonkeyPatch):
    def command(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["publish", *map(str, words), "--zoo", str(zoo)])
        publish.main()

    return command


def test_a_run_becomes_an_entrys_file_and_later_facts_change_the_header_alone(command, zoo, tmp_path):
    embedded = read_package(EMBEDDED)
    drawn = embedded.header["recipe"]["sample"]
    recipe = embedded.header["recipe"] | {"sample": drawn | {"guidance": 9.0}}
    header = embedded.header | {"scores": [], "recipe": recipe, "parent": ""}
    header.pop("editing", None)
    raw = {name: tensor + 1 for name, tensor in embedded.weights.items()}
    write_package(tmp_path / "model.safetensors", Package(header, embedded.weights, raw))
    before = (zoo / "index.toml").read_text(encoding="utf-8")
    command("fashion-mnist", "--from", tmp_path / "model.safetensors", "--licence", "MIT", "--hours", 2.5)

    file = zoo / "fashion-mnist.safetensors"
    first = read_package(file)
    assert first.raw is None
    assert first.header["licence"] == "MIT"
    assert first.header["recipe"] == embedded.header["recipe"]
    assert (first.header["hours"], first.header["command"]) == (2.5, "spherectl train fashion-mnist")
    after = (zoo / "index.toml").read_text(encoding="utf-8")
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert changed == [f'sha256 = "{file_hash(file)}"', f"bytes = {file.stat().st_size}"]
    entries = {entry.name: entry for entry in read_index(zoo / "index.toml")}
    assert entries["fashion-mnist"].sha256 == file_hash(file)

    row = {"settings": {"steps": 1, "guidance": 1.0}, "scores": {"accuracy": 0.92854, "kid": None, "recall": 0.5}}
    guided = {"settings": {"steps": 4, "guidance": 1.4}, "scores": {"frechet_distance": 1.23456}}
    report = {"command": "spherectl evaluate fashion-mnist --out /x", "rows": [row, guided]}
    (tmp_path / "report.json").write_text(json.dumps(report | {"reconstructions": [{"psnr": 29.09}]}))
    settings = {"denoise": {"lambda": 3.0, "noise_deg": 40.0, "rounds": 4}}
    tasks = {task: {"chosen": chosen} for task, chosen in settings.items()}
    (tmp_path / "restoration.json").write_text(json.dumps({"fashion-mnist": {"tasks": tasks}}))
    command("fashion-mnist", "--report", tmp_path / "report.json", "--restoration", tmp_path / "restoration.json")
    second = read_package(file)
    noted = json.loads((tmp_path / "restoration.json").read_text())
    assert noted == {"fashion-mnist": {"tasks": tasks, "model_sha256": file_hash(file)}}
    assert all(torch.equal(first.weights[name], tensor) for name, tensor in second.weights.items())
    assert second.header["scores"] == [
        {"metric": name, "value": value, "command": "spherectl evaluate fashion-mnist"}
        for name, value in (
            ("class accuracy, 1 step, unguided", 0.9285),
            ("recall, 1 step, unguided", 0.5),
            ("Frechet distance, 4 steps, guidance 1.4", 1.2346),
            ("reconstruction PSNR, dB", 29.1),
        )
    ]
    assert second.header["editing"] == {"restore": settings}
    same = first.header.keys() - {"scores"}
    assert {key: second.header[key] for key in same} == {key: first.header[key] for key in same}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fashion-mnist",), "There is no file .*fashion-mnist.safetensors"),
        (("mine", "--from", SCRATCH), "has 0 entries of the name mine; expected one"),
        (("fashion-mnist", "--from", SCRATCH), r"bytes; expected at most 1,000"),  # too large for the repository
    ],
)
def test_what_cannot_be_published_is_one_sentence(command, zoo, monkeypatch, words, expected):
    monkeypatch.setattr(publish, "MAX_BYTES", 1_000)
    before = (zoo / "index.toml").read_bytes()
    with pytest.raises(SystemExit, match=expected):
        command(*words)
    assert (zoo / "index.toml").read_bytes() == before
    assert [path.name for path in zoo.iterdir()] == ["index.toml"]


def test_a_run_that_went_on_counts_what_was_before_and_another_is_refused(command, zoo, tmp_path):
    target, went_on = zoo / "emoji.safetensors", tmp_path / "model.safetensors"
    shutil.copy(SCRATCH, target)
    package = read_package(SCRATCH)
    header = package.header | {"images_seen": 1_000, "parent": file_hash(target)}
    write_package(went_on, Package(header, {name: tensor + 1 for name, tensor in package.weights.items()}))
    command("emoji", "--from", went_on, "--hours", 0.5)
    found = read_package(target).header
    assert found["command"] == "spherectl train emoji --from emoji"
    assert found["images_seen"] == package.header["images_seen"] + 1_000
    assert found["hours"] == package.header["hours"] + 0.5
    assert found["parent"] == file_hash(SCRATCH)
    published = target.read_bytes()
    with pytest.raises(SystemExit, match="began from another model than"):
        command("emoji", "--from", went_on)
    assert target.read_bytes() == published
