"""Work and downloads shared by processes: by one alone in this process, by several that start together."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.processes import Processes, joined
from tests.conftest import Cli
from tests.serving import Host, hosting, sha256

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


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting(w=CONTENT) as host:
        yield host


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
def test_half_of_torchruns_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="RANK, MASTER_ADDR, MASTER_PORT is not set"), joined():
        pass


@pytest.mark.slow
def test_several_processes_do_each_item_once_and_the_first_has_all_in_order(together: Any, tmp_path: Path) -> None:
    world = 3
    script, folder = tmp_path / "script.py", tmp_path / "seen"
    script.write_text(SCRIPT)
    folder.mkdir()
    ended = together(world, script, folder)
    assert [one.returncode for one in ended] == [0] * world, ended[0].stderr
    result: dict[str, Any] = json.loads(ended[0].stdout)
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


# Files that several processes fetch


CONTENT = bytes((7 * i + i // 256) % 256 for i in range(1_500_000))
FETCHING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from spherectl.fetch import fetch_file
from spherectl.settings import Settings
cache, url, sha256, threads = sys.argv[1:]
def fetch(_number):
    path = fetch_file([url], "deep/w", sha256=sha256, settings=Settings(cache=Path(cache)))
    return path.stat().st_size
with ThreadPoolExecutor(int(threads)) as pool:
    print(*pool.map(fetch, range(int(threads))))
"""


@pytest.mark.slow
def test_of_12_fetches_at_once_one_asks(cli: Cli, host: Host, tmp_path: Path) -> None:
    """Two processes of six threads."""
    host.answers["w"] = ["cut", "slow"]
    command = ["-c", FETCHING, tmp_path / "cache", f"{host.url}w", sha256(CONTENT), "6"]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: cli.python(*command), range(2)))
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * 2
    assert " ".join(one.stdout for one in ended).split() == [str(len(CONTENT))] * 12
    assert len(host.asked) == 2
    assert (tmp_path / "cache" / "deep" / "w").read_bytes() == CONTENT


@pytest.mark.slow
def test_a_killed_fetch_is_continued_by_the_next_process(cli: Cli, host: Host, tmp_path: Path) -> None:
    host.files["w"] = CONTENT * 20
    host.answers["w"] = ["slow", 200]
    command = ["-c", FETCHING, str(tmp_path / "cache"), f"{host.url}w", sha256(CONTENT * 20), "1"]
    started = subprocess.Popen([sys.executable, *command], env=cli.environment())
    part = tmp_path / "cache" / "deep" / ".w.part"
    while not part.is_file() or part.stat().st_size == 0:
        assert started.poll() is None
        time.sleep(0.001)
    started.kill()
    started.wait()
    assert not (tmp_path / "cache" / "deep" / "w").exists()
    assert cli.python(*command).returncode == 0
    assert (tmp_path / "cache" / "deep" / "w").read_bytes() == CONTENT * 20
    assert host.asked[-1].status == 206
    assert sorted(path.name for path in part.parent.iterdir()) == [".w.lock", "w"]
