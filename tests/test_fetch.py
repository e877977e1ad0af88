"""Fetching from a server on this machine: what it is asked, how often, and what the cache holds afterwards."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spherectl import transfer
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import fetch_url
from spherectl.settings import Settings

pytestmark = pytest.mark.fast

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several pieces of pooch's
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Answers GET / with `answers` in turn, the last one for ever, and counts."""

    url: str = ""
    answers: list[int | str] = field(default_factory=lambda: [200])
    requests: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = state.answers[min(state.requests, len(state.answers) - 1)]
            state.requests += 1
            if answer == "cut":  # promises all, sends half
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT[: len(CONTENT) // 2])
                return
            body = CONTENT if answer == 200 else b"no"
            self.send_response(answer)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{running.server_address[1]}/weights.bin"
        yield state
        running.shutdown()


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(cache=tmp_path / "cache")


def files_in(folder: Path) -> list[str]:
    """All files but locks."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_file_is_fetched_once_and_then_found(server, settings):
    first = fetch_url(server.url, SHA256, "deep/weights.bin", settings=settings)
    again = fetch_url(server.url, SHA256, "deep/weights.bin", settings=settings)
    assert first == again == settings.cache / "deep" / "weights.bin"
    assert first.read_bytes() == CONTENT
    assert server.requests == 1
    assert files_in(settings.cache) == [str(Path("deep", "weights.bin"))]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_it(server, settings, umask, mode):
    before = os.umask(umask)
    try:
        path = fetch_url(server.url, SHA256, "weights.bin", settings=settings)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_progress_ends_at_the_whole(server, settings):
    seen: list[tuple[int, int]] = []
    fetch_url(server.url, SHA256, "weights.bin", lambda done, total: seen.append((done, total)), settings)
    done = [count for count, _ in seen]
    assert len(seen) > 2
    assert done == sorted(done)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_damaged_file_in_the_cache_is_fetched_again(server, settings):
    path = settings.cache / "weights.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    assert fetch_url(server.url, SHA256, "weights.bin", settings=settings).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_with_growing_waits(server, settings, waits):
    server.answers = [503, 429, 200]
    assert fetch_url(server.url, SHA256, "weights.bin", settings=settings).read_bytes() == CONTENT
    assert (server.requests, waits) == (3, [1, 2])


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_not_asked_again(server, settings, waits, status):
    server.answers = [status]
    with pytest.raises(SpherectlError) as caught:
        fetch_url(server.url, SHA256, "weights.bin", settings=settings)
    assert (server.requests, waits, caught.value.exit_code) == (1, [], 1)
    assert f"Cannot fetch weights.bin from {server.url}: the server says {status}" in caught.value.message
    assert (
        caught.value.hint
        == f"Where there is a network, download {server.url} and put it at {settings.cache / 'weights.bin'}."
    )
    assert files_in(settings.cache) == []


def test_a_broken_off_download_is_tried_again_and_has_no_name(server, settings, waits):
    server.answers = ["cut"]
    with pytest.raises(SpherectlError, match="the connection broke off"):
        fetch_url(server.url, SHA256, "weights.bin", settings=settings)
    assert (server.requests, waits) == (transfer.ATTEMPTS, [1, 2])
    assert files_in(settings.cache) == [".weights.bin.part", ".weights.bin.part.json"]  # for the next time


def test_a_broken_off_download_may_succeed_the_second_time(server, settings, waits):
    server.answers = ["cut", 200]
    assert fetch_url(server.url, SHA256, "weights.bin", settings=settings).read_bytes() == CONTENT


def test_nobody_there_is_a_sentence(settings, waits):
    with pytest.raises(SpherectlError, match=r"Cannot fetch w from http://127\.0\.0\.1:1/w: no connection\."):
        fetch_url("http://127.0.0.1:1/w", SHA256, "w", settings=settings)
    assert waits == [1, 2]


def test_another_file_than_expected_is_not_kept(server, settings):
    with pytest.raises(SpherectlError, match="its SHA-256 does not begin with 000000000000, so it was not kept"):
        fetch_url(server.url, "0" * 64, "weights.bin", settings=settings)
    assert files_in(settings.cache) == []


def test_the_first_digits_of_a_hash_are_enough_where_no_more_is_known(server, settings):
    assert fetch_url(server.url, SHA256[:8], "weights.bin", settings=settings).read_bytes() == CONTENT
    with pytest.raises(SpherectlError, match="does not begin with"):
        fetch_url(server.url, "0" + SHA256[1:8], "other.bin", settings=settings)


def test_offline_asks_nobody(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    settings = Settings(cache=tmp_path)
    with pytest.raises(
        SpherectlError, match=r"weights\.bin is missing, .* because SPHERECTL_OFFLINE says to stay offline"
    ):
        fetch_url(server.url, SHA256, "weights.bin", settings=settings)
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    assert fetch_url(server.url, SHA256, "weights.bin", settings=settings) == tmp_path / "weights.bin"
    assert server.requests == 0


def test_a_cache_that_cannot_be_written_is_a_sentence(server, tmp_path):
    (tmp_path / "cache").touch()  # a file where the folder should be; permissions would not stop root
    with pytest.raises(FileError, match=r"Cannot write .*: (Not a directory|File exists)"):
        fetch_url(server.url, SHA256, "weights.bin", settings=Settings(cache=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("url", "sha256", "filename", "words"),
    [
        ("http://example.org/w", SHA256, "w", "expected an https address, got 'http://example.org/w'"),
        ("ftp://localhost/w", SHA256, "w", "expected an https address"),
        ("file:///etc/passwd", SHA256, "w", "expected an https address"),
        ("https:///w", SHA256, "w", "expected an https address"),
        ("https://example.org/w", SHA256, "../w", "expected a path inside the folder, got '../w'"),
        ("https://example.org/w", SHA256, "/etc/w", "expected a path inside the folder"),
        ("https://example.org/w", SHA256, "a\\..\\..\\w", "expected a path inside the folder"),
        ("https://example.org/w", SHA256, "C:w", "expected a path inside the folder"),
        ("https://example.org/w", SHA256[:7], "w", "expected a SHA-256 in hexadecimal digits"),
        ("https://example.org/w", "", "w", "expected a SHA-256 in hexadecimal digits"),
        ("https://example.org/w", "x" * 64, "w", "expected a SHA-256 in hexadecimal digits"),
    ],
)
def test_what_is_not_safe_to_fetch_is_refused_before_asking(settings, monkeypatch, url, sha256, filename, words):
    monkeypatch.setattr(transfer.Downloader, "gather", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(UsageError) as caught:
        fetch_url(url, sha256, filename, settings=settings)
    assert words in caught.value.message
