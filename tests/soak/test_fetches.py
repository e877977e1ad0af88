"""200 fetches of one file at once, from a server that breaks off and is busy: all succeed, one downloads."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving import hosting

pytestmark = pytest.mark.soak

PROCESSES, THREADS = 8, 25
BYTES = 200_000_000

FETCHING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from spherectl.fetch import fetch_file
from spherectl.settings import Settings
cache, url, sha256, threads = sys.argv[1:]
def fetch(_number):
    return fetch_file([url], "deep/w", sha256=sha256, settings=Settings(cache=Path(cache))).stat().st_size
with ThreadPoolExecutor(int(threads)) as pool:
    print(*pool.map(fetch, range(int(threads))))
"""


def test_of_200_fetches_at_once_one_downloads(cli: Any, tmp_path: Path, record: Callable[..., None]) -> None:
    content = bytes(range(256)) * (BYTES // 256)
    digest = hashlib.sha256(content).hexdigest()
    with hosting(w=content) as host:
        host.answers["w"] = ["cut", 503, "cut", ("wait", 429, 1), 200]
        words = ["-c", FETCHING, str(tmp_path / "cache"), f"{host.url}w", digest, str(THREADS)]

        began = time.monotonic()
        with ThreadPoolExecutor(PROCESSES) as pool:
            ended = list(pool.map(lambda _: cli.python(*words), range(PROCESSES)))
        seconds = time.monotonic() - began
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * PROCESSES
    assert " ".join(one.stdout for one in ended).split() == [str(len(content))] * PROCESSES * THREADS
    statuses = [one.status for one in host.asked]
    assert statuses == [200, 503, 206, 429, 206]
    assert sorted(path.name for path in (tmp_path / "cache" / "deep").iterdir()) == [".w.lock", "w"]
    about = {"fetches": PROCESSES * THREADS, "processes": PROCESSES, "megabytes": len(content) / 1e6}
    record("fetches", **about, requests=statuses, seconds=seconds)
