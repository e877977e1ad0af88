"""Checkpoints: each row written once, read by any number of processes, whole or not there; saving beside training."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl.errors import FileError
from spherectl.model.formats.weights import read_tensors
from spherectl.processes import Processes
from spherectl.training import checkpoint
from spherectl.training.checkpoint import Counts, Piece
from spherectl.training.saver import Saver

pytestmark = pytest.mark.fast

# Ramps, so that every number says where it belongs.
WHOLE = {
    "model.a": torch.arange(30.0).reshape(10, 3),
    "model.b": torch.arange(7.0),
    "ema.a": torch.arange(12.0),
    "ema.c": torch.ones(1),
}


def sharded(world: int) -> list[dict[str, Piece]]:
    """The tensors in rows as torch.chunk deals them: what each process of FSDP2 holds."""
    held: list[dict[str, Piece]] = [{} for _ in range(world)]
    for name, tensor in WHOLE.items():
        start = 0
        chunks = [*tensor.chunk(world), *[tensor[:0]] * world][:world]
        for rank, rows in enumerate(chunks):
            held[rank][name] = Piece(rows, start, tuple(tensor.shape), sharded=True)
            start += len(rows)
    return held


def written(folder: Path, held: list[dict[str, Piece]], images_seen: int = 8) -> Path:
    path, world = checkpoint.checkpoint_path(folder, images_seen), len(held)
    for rank, pieces in enumerate(held):
        processes = Processes(rank, world)
        checkpoint.write_shard(path, checkpoint.own(pieces, processes), processes)
    checkpoint.commit(path, Counts(step=1, updates=1, images_seen=images_seen), world)
    return path


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_rows_come_back_whatever_wrote_them(world: int, tmp_path: Path) -> None:
    whole = {name: Piece(tensor, 0, tuple(tensor.shape)) for name, tensor in WHOLE.items()}
    for kind, held in (("whole", [whole] * world), ("rows", sharded(world))):
        path = written(tmp_path / kind, held)
        numbers = sum(t.numel() for shard in path.glob("shard-*") for t in read_tensors(shard).values())
        assert numbers == 30 + 7 + 12 + 1  # each number once
        with checkpoint.opened(path) as reader:
            assert reader.counts == Counts(step=1, updates=1, images_seen=8)
            assert reader.shapes == {name: tuple(tensor.shape) for name, tensor in WHOLE.items()}
            for name, tensor in WHOLE.items():
                assert torch.equal(reader.read(name), tensor)
                for start in range(len(tensor)):
                    assert torch.equal(reader.read(name, start, len(tensor) - start), tensor[start:])
                    assert torch.equal(reader.read(name, start, 1), tensor[start : start + 1])
        assert checkpoint.read_part(path, "ema").keys() == {"a", "c"}


def test_whole_tensors_are_dealt_so_that_all_write_about_as_much() -> None:
    sizes = [50, 30, 20, 10, 10, 5, 5, 3]
    pieces = {f"{i}": Piece(torch.zeros(size), 0, (size,)) for i, size in enumerate(sizes)}
    mine = [checkpoint.own(pieces, Processes(rank, 3)) for rank in range(3)]
    assert sorted(name for one in mine for name in one) == sorted(pieces)
    loads = [sum(len(piece.tensor) for piece in one.values()) for one in mine]
    assert max(loads) == 50  # one tensor cannot be halved
    assert min(loads) >= 40


def damage(path: Path, how: str) -> None:
    """Damage a checkpoint of two shards."""
    shard = next(path.glob("shard-00001*"))
    match how:
        case "shard":
            shard.unlink()
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-8])
        case "pipe":
            shard.unlink()
            os.mkfifo(shard)
        case "rows":  # as many shards, one of them twice
            shutil.copy(next(path.glob("shard-00000*")), shard)
        case text:
            (path / checkpoint.INDEX).write_text(text)


INDEX = {"architecture": "training-state", "format": 2, "shards": 2}
DAMAGES = ["shard", "cut", "pipe", "rows", "{", "[" * 10_000]
DAMAGES += [json.dumps(INDEX | one) for one in ({"format": 1}, {"step": "x"}, {"shards": 10**30}, {"loss_scale": None})]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_names_the_newest_whole_one(how: str, tmp_path: Path) -> None:
    oldest, whole, broken, newest = (written(tmp_path, sharded(2), images) for images in (8, 16, 24, 32))
    damage(newest, how)
    damage(broken, "cut")
    with pytest.raises(FileError) as caught, checkpoint.opened(newest):
        pass
    assert caught.value.message.startswith("The checkpoint 000000000032 is damaged. ")
    assert len(caught.value.message) < 300 + 2 * len(str(newest))
    assert caught.value.hint == f"{whole} is whole: remove {broken}, {newest}, and the training goes on from there."
    for path in (oldest, whole):
        shutil.rmtree(path)
    with pytest.raises(FileError) as caught, checkpoint.opened(newest):
        pass
    assert caught.value.hint == "No other checkpoint of this run is whole: begin a new run."


def test_only_what_is_whole_is_found_and_the_rest_is_swept(tmp_path: Path) -> None:
    path = written(tmp_path, sharded(2), 16)
    half = written(tmp_path, sharded(2), 24)
    (half / checkpoint.INDEX).unlink()  # as a kill while it was removed would leave it
    checkpoint.write_shard(checkpoint.checkpoint_path(tmp_path, 32), sharded(2)[0], Processes(0, 2))
    assert checkpoint.checkpoints(tmp_path) == [path]
    checkpoint.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_newest_and_the_first_of_each_milestone_stay(tmp_path: Path) -> None:
    seen = []
    for images in range(30, 310, 30):
        written(tmp_path, sharded(1), images)
        checkpoint.prune(tmp_path, keep=2, milestone_images=100)
        seen.append([int(path.name) for path in checkpoint.checkpoints(tmp_path)])
    assert seen[-1] == [120, 210, 270, 300]
    checkpoint.prune(tmp_path, keep=1, milestone_images=None)
    assert [int(path.name) for path in checkpoint.checkpoints(tmp_path)] == [300]


# Saving beside training


def test_a_save_goes_on_while_training_changes_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is held until the tensor has been overwritten: the file has what was there when saving began."""
    changed, named = threading.Event(), []
    write = checkpoint.write_shard
    monkeypatch.setattr(checkpoint, "write_shard", lambda *given: changed.wait(10) and write(*given))
    tensor = torch.arange(5.0)
    with Saver(tmp_path, Processes(), lambda path, counts: named.append((path, counts))).open() as saver:
        counts = Counts(step=1, images_seen=8)
        saver.begin({"model.a": Piece(tensor, 0, (5,))}, counts)
        assert checkpoint.checkpoints(tmp_path) == []
        tensor.fill_(-1)
        counts.images_seen = 16
        changed.set()
        saver.finish()
        path = checkpoint.checkpoint_path(tmp_path, 8)
        assert named == [(path, Counts(step=1, images_seen=8))]
        assert torch.equal(checkpoint.read_part(path, "model")["a"], torch.arange(5.0))


def test_a_checkpoint_has_no_name_until_all_have_written(tmp_path: Path) -> None:
    named: list[Any] = []
    first, second = (Saver(tmp_path, Processes(rank, 2), lambda path, _: named.append(path)) for rank in range(2))
    held = sharded(2)
    with first.open(), second.open():
        for saver, pieces in ((first, held[0]), (second, held[1])):
            saver.begin(pieces, Counts(images_seen=8))
        first._writing.result()  # type: ignore[union-attr]
        first.proceed(all_written=False)
        assert checkpoint.checkpoints(tmp_path) == []
        second._writing.result()  # type: ignore[union-attr]
        assert first.written
        assert second.written
        second.proceed(all_written=True)
        first.proceed(all_written=True)
        first._naming.result()  # type: ignore[union-attr]
    assert named == checkpoint.checkpoints(tmp_path) == [checkpoint.checkpoint_path(tmp_path, 8)]


def test_what_could_not_be_written_is_told_by_the_next_step_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FileError("no room")

    monkeypatch.setattr(checkpoint, "write_shard", fail)
    for tell in ("proceed", "finish"):
        with Saver(tmp_path, Processes(), lambda *_: None).open() as saver:
            saver.begin({}, Counts(images_seen=8))
            step = saver.finish if tell == "finish" else functools.partial(saver.proceed, all_written=True)
            with pytest.raises(FileError, match="no room"):
                consume(step)


def consume(step: Callable[[], None]) -> None:
    """Take steps until one fails; the thread may need a moment."""
    while True:
        step()
