"""Servers that mean harm: each answer ends within seconds, in one sentence, and leaves nothing behind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from spherectl import downloader, fetch, http
from spherectl.errors import SpherectlError
from spherectl.fetch import fetch_file, fetch_text
from spherectl.settings import Settings
from tests.serving import speaking

pytestmark = pytest.mark.fast

LIMIT_S = 8  # in which each has to end; all deadlines are made a second or less
MAX_SENT = 48 << 20  # bytes that a server gets rid of, buffers of the system's included

OK = b"HTTP/1.1 200 OK\r\n"
ZEROS = bytes(1 << 16)
PAUSE = threading.Event()


def once(head: bytes, rest: Iterable[bytes] = ()) -> Callable[[int, bytes], Iterator[bytes]]:
    """The same to everybody; `rest` must be one that can be walked again and again."""
    return lambda _number, _path: itertools.chain([head], rest)


def endless(piece: bytes, pause_s: float = 0) -> Iterable[bytes]:
    """A piece again and again."""

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield piece
                PAUSE.wait(pause_s)  # time.sleep does not wait here (`waits`)

    return Endless()


def redirecting(location: bytes, rest: Iterable[bytes] = ()) -> Callable[[int, bytes], Iterator[bytes]]:
    return once(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n", rest)


def later(header: bytes) -> Callable[[int, bytes], Iterator[bytes]]:
    return once(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: " + header + b"\r\n\r\n")


# By name: what is said, and words of the sentence.
MODES = {
    "silence": (once(b"", endless(b"", 0.1)), "no answer for too long"),
    "no HTTP": (once(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "the answer is not HTTP"),
    "100 again and again": (once(b"", endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 99)), "the answer is not HTTP"),
    "a head that drips": (once(OK + b"X: ", endless(b"x", 0.05)), "no answer for too long"),
    "an endless header": (once(OK + b"X: ", endless(b"x" * 1000)), "the answer is not HTTP"),
    "a body that drips": (once(OK + b"Content-Length: 9999\r\n\r\n", endless(b"x", 0.05)), "bytes a second"),
    "an endless body": (once(OK + b"\r\n", endless(ZEROS)), "has more than 1,048,576 bytes"),
    "an endless body in chunks": (
        once(OK + b"Transfer-Encoding: chunked\r\n\r\n", endless(b"10000\r\n" + ZEROS + b"\r\n")),
        "has more than 1,048,576 bytes",
    ),
    "an endless length of a chunk": (
        once(OK + b"Transfer-Encoding: chunked\r\n\r\n", endless(b"0" * 1000)),
        "the connection broke off",
    ),
    "endless trailers": (
        once(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", endless(b"X: y\r\n" * 1000)),
        "the connection broke off",
    ),
    "a length of many gigabytes": (
        once(OK + b"Content-Length: 9000000000000000\r\n\r\n", endless(ZEROS)),
        "has more than 1,048,576 bytes",
    ),
    "two lengths": (once(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"), "a header of .* is not valid"),
    "a bomb": (once(OK + b"Content-Encoding: gzip\r\n\r\n", endless(ZEROS)), r"sends it compressed \(gzip\)"),
    "an error with an endless body": (once(b"HTTP/1.1 404 Not Found\r\n\r\n", endless(ZEROS)), "says 404 Not Found"),
    "redirections with endless bodies": (redirecting(b"/w", endless(ZEROS)), "redirects more than 10 times"),
    "a redirection to a port out of range": (redirecting(b"https://x:99999/w"), "redirects to .*, which is no address"),
    "a redirection with escapes": (
        redirecting(b"https://x/\x1b[31m"),
        r"redirects to 'https://x/\\x1b\[31m', which is no",
    ),
    "to come back in 30 years": (later(b"999999999"), r"to come back in 999,999,999 s"),
    "to come back in the year 99999": (later(b"Fri, 31 Dec 99999 23:59:59 GMT"), "says 503 Busy"),
    "a range that is none": (
        once(b"HTTP/1.1 206 x\r\nContent-Range: bytes 9" + b"9" * 5000 + b"-/x\r\n\r\n"),
        "answers 206",
    ),
    "a part that nobody asked for": (
        once(b"HTTP/1.1 206 x\r\nContent-Range: bytes 5-9/10\r\n\r\nhello"),
        "answers 206",
    ),
}


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch, waits) -> None:
    """Each limit a second, or a megabyte."""
    monkeypatch.setattr(http, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(http, "MAX_HEAD_S", 0.2)
    monkeypatch.setattr(downloader, "RATE_S", 0.5)
    monkeypatch.setattr(downloader, "MAX_FILE", 1 << 20)


@pytest.mark.parametrize("mode", MODES)
def test_every_answer_ends_in_one_sentence(tmp_path, mode):
    say, words = MODES[mode]
    settings = Settings(cache=tmp_path / "cache")
    with speaking(say) as speaker:
        began = time.monotonic()
        with pytest.raises(SpherectlError, match=words) as caught:
            fetch_file([f"{speaker.url}w"], "w", sha256="", settings=settings)
        took_s = time.monotonic() - began
    assert took_s < LIMIT_S
    assert speaker.sent < MAX_SENT
    assert caught.value.exit_code == 1
    assert str(caught.value).isprintable()
    assert len(caught.value.message) < 400
    left = [path.name for path in settings.cache.rglob("*")]
    assert set(left) <= {".w.lock", ".w.part", ".w.part.json"}
    assert sum((settings.cache / name).stat().st_size for name in left) < 1 << 20


@pytest.mark.parametrize("say", [once(OK + b"\r\n", endless(ZEROS)), once(OK + b"\r\n", endless(b"x" * 2000, 0.01))])
def test_a_text_has_its_own_limits(monkeypatch, say):
    """In bytes and in seconds, over all of it: the second server is just quick enough not to be called slow."""
    monkeypatch.setattr(fetch, "DOCUMENT_S", 1)
    words = r"more than 900,000 bytes|takes longer than 1 s"
    with speaking(say) as speaker, pytest.raises(SpherectlError, match=words):
        fetch_text(speaker.url, "the list", max_bytes=900_000)


def test_a_byte_for_each_connection_is_no_progress(tmp_path):
    """Else the server could go on until the file is whole."""
    settings = Settings(cache=tmp_path / "cache")

    def one_more(number: int, _path: bytes) -> Iterator[bytes]:
        start = b"HTTP/1.1 206 x\r\nContent-Range: bytes %d-999/1000\r\nContent-Length: %d" % (number, 1000 - number)
        yield (start if number else OK + b"Content-Length: 1000") + b'\r\nETag: "a"\r\n\r\nx'

    with speaking(one_more) as speaker, pytest.raises(SpherectlError, match="the connection broke off"):
        fetch_file([f"{speaker.url}w"], "w", sha256="", settings=settings)
    assert len(speaker.requests) == downloader.ATTEMPTS
    assert b'If-Range: "a"' in speaker.requests[1]


def test_states_that_never_fit_are_joined_so_often_and_no_more(tmp_path):
    """Each whole file is cut, and what comes for its rest has another hash."""
    settings = Settings(cache=tmp_path / "cache")

    def joined(number: int, _path: bytes) -> Iterator[bytes]:
        if number % 2:
            yield b"HTTP/1.1 206 x\r\nContent-Range: bytes 1-1/2\r\nContent-Length: 1\r\n\r\ny"
        else:
            yield OK + b"Content-Length: 2\r\n\r\nx"

    with speaking(joined) as speaker, pytest.raises(SpherectlError, match="its SHA-256 does not begin"):
        fetch_file([f"{speaker.url}w"], "w", sha256="0" * 64, settings=settings)
    assert len(speaker.requests) == 2 * downloader.STARTS


@pytest.mark.parametrize("mark", [b'"\x1b[31m"', b'"' + b"x" * 5000 + b'"', b'W/"a"'], ids=["escapes", "long", "weak"])
def test_a_mark_that_is_none_is_not_sent_back(tmp_path, mark):
    settings = Settings(cache=tmp_path / "cache")
    say = once(OK + b"Content-Length: 1000\r\nETag: " + mark + b"\r\n\r\nx")
    with speaking(say) as speaker, pytest.raises(SpherectlError, match="the connection broke off"):
        fetch_file([f"{speaker.url}w"], "w", sha256="", settings=settings)
    assert not any(b"Range" in head for head in speaker.requests)


@pytest.mark.parametrize("note", [b"", b"[" * 5000, b'{"url": 1, "validator": []}', b"x" * (1 << 17)])
def test_a_damaged_note_of_a_part_is_none(tmp_path, note):
    settings = Settings(cache=tmp_path)
    (tmp_path / ".w.part").write_bytes(b"xx")
    (tmp_path / ".w.part.json").write_bytes(note)
    with speaking(once(OK + b"Content-Length: 2\r\n\r\nok")) as speaker:
        path = fetch_file([f"{speaker.url}w"], "w", sha256="", settings=settings)
    assert path.read_bytes() == b"ok"
    assert b"Range" not in speaker.requests[0]


def test_a_file_of_no_stated_size_leaves_room_on_the_disk(tmp_path, monkeypatch):
    """Looked at while it comes; one whose size is stated may take what there is."""
    monkeypatch.setattr(downloader, "LOOK", 1 << 18)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": downloader.MIN_FREE - 1}))
    settings = Settings(cache=tmp_path / "cache")
    body = bytes(1 << 19)
    with speaking(once(OK + b"\r\n", [body])) as speaker, pytest.raises(SpherectlError, match=r"leaves .* MB free"):
        fetch_file([f"{speaker.url}w"], "w", sha256="", settings=settings)
    assert not (settings.cache / ".w.part").exists()
    with speaking(once(OK + b"Content-Length: %d\r\n\r\n" % len(body), [body])) as speaker:
        assert fetch_file([f"{speaker.url}w"], "w", sha256="", settings=settings).stat().st_size == len(body)
