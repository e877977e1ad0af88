"""Layouts of published checkpoints: one record is all that a further one needs."""

from __future__ import annotations

import importlib
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import spherectl
from spherectl import zoo
from spherectl.errors import FileError
from spherectl.model.formats import layouts
from spherectl.model.formats.layouts import PUBLISHED, Layout
from spherectl.model.formats.weights import Package, read_package, write_package
from spherectl.zoo.entries import PublishedFile
from spherectl.zoo.repositories import HubFile, Listing, choose, parse_name

OTHER = Layout("other", "checkpoint of others", "net.json", "weights_####.bin", "a_layout_of_others", "their code")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """A layout whose checkpoints are our own files under another name, on record for one test."""

    def write(folder: Path, package: Any) -> None:
        write_package(folder / "weights_0003.bin", package)
        (folder / "net.json").write_text("{}")

    code = types.ModuleType(OTHER.code)
    code.read = lambda folder: read_package(OTHER.newest(folder))  # type: ignore[attr-defined]
    code.write, code.describe = write, lambda folder, facts: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, OTHER.code, code)
    layouts.LAYOUTS.append(OTHER)
    yield OTHER
    layouts.LAYOUTS.remove(OTHER)


@pytest.fixture
def export_command(other: Layout) -> Iterator[Any]:
    """The command's module as a process has it that knows the layout from its start."""
    from spherectl.cli import export
    from spherectl.export import formats

    importlib.reload(formats)
    yield importlib.reload(export)
    layouts.LAYOUTS.remove(other)
    importlib.reload(formats)
    importlib.reload(export)
    layouts.LAYOUTS.append(other)


@pytest.mark.slow
def test_a_record_is_written_found_and_loaded(export_command: Any, package: Package, tmp_path: Path) -> None:
    assert "other" in list(export_command.FormatName)
    model_file = tmp_path / "m.safetensors"
    write_package(model_file, package)
    found = zoo.find_model(str(model_file))
    request = export_command.Request(found, tmp_path / "theirs", "float32", [], None)
    (written,) = export_command.FORMATS["other"].write(request)
    assert written.path == tmp_path / "theirs" / "weights_0003.bin"
    again = zoo.find_model(str(tmp_path / "theirs"))
    assert (again.kind, again.reason) == (
        "other",
        f"model: {tmp_path / 'theirs'} (as asked for, checkpoint of others)",
    )
    expected, loaded = spherectl.load(model_file), spherectl.load(tmp_path / "theirs")
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), loaded.parameters(), strict=True))


@pytest.mark.fast
def test_a_record_is_in_the_zoo_and_in_errors(other: Layout, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"or net\.json and weights_####\.bin \(a checkpoint of others\)"):
        zoo.find_model(str(tmp_path))
    (tmp_path / "x.bin").touch()
    with pytest.raises(FileError) as caught:
        zoo.find_model(str(tmp_path / "x.bin"))
    assert caught.value.hint == "Give the folder that holds net.json and weights_####.bin."
    assert PublishedFile(path="weights_12.bin").path == "weights_12.bin"
    files = ["a/net.json", "a/weights_2.bin", "a/weights_10.bin", "cfg.json", "ckpt/ep0001.pth"]
    listing = Listing("u/r", "", "", dict.fromkeys(files, HubFile(1, "")))
    assert choose(listing, parse_name("hf:u/r/a")) == ("a/net.json", "a/weights_10.bin")
    assert layouts.below("a/weights_10.bin") == "weights_10.bin"


@pytest.mark.fast
def test_the_newest_checkpoint_counts_and_other_files_do_not(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(reference / "published-layout", folder, copy_function=shutil.copyfile)
    for name in ("ep12.pth", "ep9.pth", "epx.pth", "ep13.txt", f"ep{'9' * 200}.pth", "ep٣.pth"):
        (folder / "ckpt" / name).touch()
    assert [path.name for path in PUBLISHED.checkpoints(folder)] == ["ep0007.pth", "ep9.pth", "ep12.pth"]
    assert layouts.weights_file(folder).name == "ep12.pth"
    assert layouts.is_whole(folder)
    shutil.rmtree(folder / "ckpt")
    assert layouts.layout_at(folder) is None


@pytest.mark.fast
def test_a_folder_without_checkpoints_is_no_whole_model(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "cfg.json").touch()
    assert layouts.layout_at(tmp_path) is PUBLISHED
    assert not layouts.is_whole(tmp_path)
    with pytest.raises(FileError, match=r"has a cfg\.json but no checkpoint ckpt/ep####\.pth"):
        PUBLISHED.newest(tmp_path)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cfg.json", "ckpt/ep1.pth"], True),
        (["cfg.json"], False),
        (["cfg.json", "ckpt/ep1.pth", "ckpt/ep2.pth"], False),
        (["a/cfg.json", "a/ckpt/ep1.pth"], False),
    ],
)
def test_the_files_of_one_model(files: list[str], expected: bool) -> None:
    assert layouts.is_model(files) is expected


@pytest.mark.fast
def test_models_are_one_for_each_folder() -> None:
    files = ["cfg.json", "ckpt/ep0001.pth", "b/cfg.json", "b/ckpt/ep2.pth", "b/ckpt/ep10.pth", "c/ckpt/ep1.pth"]
    assert PUBLISHED.models(files) == {"": ("cfg.json", "ckpt/ep0001.pth"), "b": ("b/cfg.json", "b/ckpt/ep10.pth")}
