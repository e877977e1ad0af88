"""The run folder: whose data it is, and what strangers may have put into it, against sentences and what goes on."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl import recipe as recipes
from spherectl.data.image_set import ImageSet, MemoryImages
from spherectl.errors import FileError, UsageError
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training.plan import resolve
from spherectl.training.run import Run

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def made(classes: str = "ab", count: int = 6, *, value: int = 0, root: str = "here") -> MemoryImages:
    return MemoryImages(
        name="made",
        root=Path(root),
        class_names=tuple(classes),
        labels=torch.arange(count) % len(classes),
        licence="",
        image_size=8,
        pixels=torch.full((count, 8, 8), value, dtype=torch.uint8),
    )


def recipe_for(images: ImageSet) -> Recipe:
    recipe = recipes.load(packaged("recipes") / "debug.toml", {"model": {"num_classes": "auto"}})
    return resolve(recipe, images, CPU)


def claim(run: Run, images: ImageSet, parent: str = "") -> None:
    run.claim(recipe_for(images), images, parent, CPU)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Begun with `made()`."""
    begun = Run(tmp_path / "run")
    begun.path.mkdir()
    claim(begun, made())
    return begun


def test_the_same_data_at_another_place_goes_on(run: Run) -> None:
    claim(run, made(root="there/../elsewhere"))
    assert recipes.load(run.recipe).data.root == str(Path("there/../elsewhere").absolute())


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (made(count=9), "9 images instead of 6"),
        (made("zb"), "new classes: z; classes that are gone: a"),
        (made("ba"), "its classes in another order"),
        (made(value=1), "as many images, but of other names, sizes or labels"),
        (made("abc", 9), "9 images instead of 6; new classes: c"),
    ],
)
def test_other_data_is_refused_in_words_and_changes_nothing(
    run: Run, now: ImageSet, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "images_seen", lambda _: 4)
    before = run.recipe.read_bytes(), run.info.read_bytes()
    with pytest.raises(UsageError) as caught:
        claim(run, now)
    assert caught.value.message == f"The data is not what {run.path} began with: {said}."
    assert caught.value.hint == "Restore it to go on with that run, or give --run-dir another folder."
    assert (run.recipe.read_bytes(), run.info.read_bytes()) == before


def test_a_run_that_has_saved_nothing_takes_other_data(run: Run) -> None:
    """Its first image could not be read, and was repaired or left out: no others have been trained on."""
    claim(run, made(count=4))
    assert json.loads(run.info.read_text())["data"]["images"] == 4


def test_a_run_of_an_earlier_version_goes_on_where_its_data_lay_and_then_knows_it(run: Run) -> None:
    info = json.loads(run.info.read_text())
    kept = info.pop("data")
    run.info.write_text(json.dumps(info))
    with pytest.raises(UsageError, match=r"differs in data\.root"):
        claim(run, made(root="elsewhere"))
    claim(run, made())
    assert json.loads(run.info.read_text())["data"] == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "should be: expected a table, got []"),
        ('{"parent": 7}', 'parent: expected text in "quotes", got 7'),
        ("[" * 100_000, "nested deeper than 64"),
        ('{"parent": NaN}', "NaN is not a number of JSON"),
    ],
)
def test_a_run_json_that_is_none_is_a_sentence(run: Run, text: str, said: str) -> None:
    run.info.write_text(text)
    with pytest.raises(FileError) as caught:
        claim(run, made())
    assert caught.value.message.startswith(f"{run.info} is not what it should be: ")
    assert said in caught.value.message
    assert len(caught.value.message) < 300 + len(str(run.info))
    with pytest.raises(FileError):
        run.parent()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "unreadable.txt"])
def test_a_pipe_in_a_run_folder_is_told_and_not_waited_for(run: Run, name: str) -> None:
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    uses: dict[str, Any] = {
        "run.json": run.parent,
        "metrics.jsonl": lambda: run.rewind_metrics(3),
        "unreadable.txt": lambda: run.note_unreadable(["a.png"]),
    }
    with pytest.raises(FileError, match=rf"{name}: it is not a regular file"):
        uses[name]()


@pytest.mark.parametrize(
    "stranger",
    [
        b"7\n",
        b'{"step": true}\n',
        b'{"loss": 1}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
        b'{"step": 2, "x": "' + b"x" * (1 << 20) + b'"}\n',
        b'{"step": 2',
        b'{"step": 3}\n',
    ],
    ids=range(8),
)
def test_metrics_keep_the_lines_up_to_the_first_that_is_no_line_of_the_past(run: Run, stranger: bytes) -> None:
    good = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
    run.metrics.write_bytes(good + stranger + b'{"step": 2}\n')
    run.rewind_metrics(2)
    assert run.metrics.read_bytes() == good


def test_unreadable_images_are_named_whatever_their_names_hold(run: Run) -> None:
    for _ in range(2):
        run.note_unreadable([os.fsdecode(b"caf\xe9.png"), "two\nlines.png", "\x1b[31mred.png"])
    assert run.unreadable.read_text("utf-8").splitlines() == [
        "\\x1b[31mred.png",
        "caf\\xe9.png",
        "two\\nlines.png",
    ]


def test_a_full_disk_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with run.metrics_writer() as writer:
        monkeypatch.setattr(writer, "_file", Full())
        with pytest.raises(FileError, match=r"Cannot write .*metrics\.jsonl: No space left on device") as caught:
            writer.scalars({"step": 1})
    assert caught.value.hint == "What was saved before stays as it is."


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_place_whose_name_is_not_text_is_refused_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UsageError, match=r"caf\\xe9 is not UTF-8"), Run(folder).locked():
        pass
    assert not folder.exists()
