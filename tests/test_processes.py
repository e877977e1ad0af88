"""Work shared by processes: by one alone in this process, by several under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.processes import Processes, joined

SCRIPT = """
import json, sys
import torch
from pathlib import Path
from spherectl.processes import joined

def work(numbers):
    return {"square": (numbers ** 2).float(), "kept": numbers[numbers < 5], "rank": torch.full_like(numbers, rank)}

with joined() as processes:
    rank = processes.rank
    order = []
    with processes.first_goes_first():
        Path(sys.argv[1], f"{rank}").write_text("here")
        seen = sorted(path.name for path in Path(sys.argv[1]).iterdir())
    found = {count: processes.gather(count, 4, work) for count in (1, 3, 26)}
    agreed = processes.agree(rank == 0), processes.agree(rank != 0)
    if processes.is_first:
        result = {count: {name: part.tolist() for name, part in parts.items()} for count, parts in found.items()}
        print(json.dumps({"found": result, "agreed": agreed, "seen": seen}))
    else:
        assert all(parts == {} for parts in found.values()) and agreed == (True, False) and "0" in seen
"""


def squares(numbers: Tensor) -> dict[str, Tensor]:
    return {"square": (numbers**2).float(), "kept": numbers[numbers < 5]}


@pytest.mark.fast
def test_one_process_does_all_in_order_and_tells() -> None:
    told: list[tuple[int, int]] = []
    found = Processes().gather(10, 4, squares, lambda done, total: told.append((done, total)))
    assert found["square"].tolist() == [number**2 for number in range(10)]
    assert found["kept"].tolist() == list(range(5))
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert Processes().agree(choice=True)
    assert not Processes().agree(choice=False)


@pytest.mark.fast
def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as processes, processes.first_goes_first():
        assert (processes.rank, processes.world, processes.is_first) == (0, 1, True)


@pytest.mark.fast
def test_half_of_torchruns_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="RANK, MASTER_ADDR, MASTER_PORT is not set"), joined():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_do_each_item_once_and_the_first_has_all_in_order(world: int, tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "seen"
    script.write_text(SCRIPT)
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    done = subprocess.run(
        [*command, str(script), str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    for count in (1, 3, 26):
        found = result["found"][str(count)]
        assert found["square"] == [number**2 for number in range(count)]
        assert found["kept"] == list(range(min(5, count)))
        assert found["rank"] == [number // 4 % world for number in range(count)]
    assert result["agreed"] == [True, False]
    assert result["seen"] == ["0"]  # the first was there before any other


@pytest.mark.fast
def test_chunks_hold_the_same_items_whoever_has_them() -> None:
    """Dealt to three processes by hand, each chunk is one of those that a single process has."""
    seen: list[list[int]] = []

    def note(numbers: Tensor) -> dict[str, Tensor]:
        seen.append(numbers.tolist())
        return {"numbers": numbers}

    Processes().gather(10, 3, note)
    chunks, seen = seen, []
    for rank in range(3):
        with pytest.raises(ValueError, match="process group"):  # there is nobody to send to; the work is done before
            Processes(rank, 3).gather(10, 3, note)
    assert sorted(seen) == chunks
    assert [number for chunk in chunks for number in chunk] == list(range(10))
