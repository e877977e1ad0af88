"""The records, and a data set that one file adds: everything that looks sets up sees it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spherectl.classes import names_of
from spherectl.cli.app import app
from spherectl.data import sets
from spherectl.data.datasets import open_dataset
from spherectl.data.sets import find_record, records
from spherectl.errors import UsageError
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
DOTS = """
from pathlib import Path
import torch
from spherectl.data.image_set import Pixels
from spherectl.data.sets import DatasetRecord

def find(folder):
    return folder if (folder / "dots.txt").is_file() else None

def read(folder, split, _say):
    shades = [int(word) for word in (folder / "dots.txt").read_text().split()]
    return Pixels(torch.tensor(shades, dtype=torch.uint8)[:, None, None].expand(-1, 8, 8), torch.arange(len(shades)))

RECORD = DatasetRecord(
    name="dots", place="the set\'s own files", licence="CC0", read=read, find=find, expected="dots.txt",
    class_names=("dark", "bright"), called="dots", train_images=2, image_px="8", channels="grey",
)
"""


@pytest.fixture
def dots(tmp_path, data_folder, monkeypatch) -> Iterator[Path]:
    """The file of a new set beside the others, and the set in the data folder."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "dots.py").write_text(DOTS)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path / "more")])
    records.cache_clear()
    (data_folder / "dots").mkdir()
    (data_folder / "dots" / "dots.txt").write_text("3 200")
    yield data_folder / "dots"
    records.cache_clear()
    sys.modules.pop("spherectl.data.sets.dots", None)


def test_one_file_adds_a_data_set(dots, tmp_path):
    images = open_dataset(DataSpec(kind="dots", fit="pad"), 8)
    assert (images.root, images.name, images.licence, images.class_names) == (dots, "dots", "CC0", ("dark", "bright"))
    assert images.gather([1, 0])[:, 0, 0, 0].tolist() == [200, 3]
    assert names_of("dots-small", 2) == ("dark", "bright")
    with pytest.raises(UsageError, match=r"No dots in .*empty: expected dots\.txt"):
        open_dataset(DataSpec(kind="dots"), 8, root=tmp_path / "empty")

    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\n[data]\nkind = "dots"\n')
    run = CliRunner().invoke
    assert run(app, ["recipes", "check", str(recipe)]).stdout == f"{recipe}: ok\n"
    told = json.loads(run(app, ["doctor", "--json"]).stdout)["data"]
    assert (told["dots"], told["imagenet"]) == (str(dots), "not found")


def test_a_file_is_called_as_its_set_and_tells_all_that_people_need_and_the_page_says_it_too():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for name, record in records().items():
        (row,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        count = "" if record.train_images is None else f"{record.train_images:,}"
        assert f" | {count} | {record.image_px}" in row
        assert row.endswith(f" | {record.licence} |")
        module = sys.modules[record.read.__module__] if record.own_name else None
        assert module is None or module.__name__.endswith(name)
        assert record.place
        assert record.licence
        assert record.classes or record.class_names
        assert record.find or not (record.expected or record.download)
        assert record.own_name or record.train_images
        assert not record.called or re.search(record.called, name)
    with pytest.raises(UsageError, match=r"There is no data set 'x'.*folder, jsonl"):
        find_record("x")
