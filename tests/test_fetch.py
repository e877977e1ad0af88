"""Fetching from servers that are slow, break off, lie, refuse and recover: the right file or one sentence."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from spherectl import downloader
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import fetch_file, fetch_url
from spherectl.settings import Settings
from tests.serving import Host, hosting, sha256

pytestmark = pytest.mark.fast

CONTENT = bytes((7 * i + i // 256) % 256 for i in range(1_500_000))
SHA256 = sha256(CONTENT)


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting(w=CONTENT) as host:
        yield host


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(cache=tmp_path / "cache")


def fetched(host: Host, settings: Settings, sha256: str = SHA256, **options) -> Path:
    return fetch_file([f"{host.url}w"], "w", sha256=sha256, settings=settings, **options)


def under_its_name(settings: Settings) -> list[Path]:
    """What a reader of the cache would take for a file."""
    return [path for path in settings.cache.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_file_is_fetched_once_with_its_progress_and_then_found(host, settings):
    seen: list[tuple[int, int]] = []
    paths = [
        fetch_url(f"{host.url}w", SHA256, "deep/w", lambda done, total, _note="": seen.append((done, total)), settings)
        for _ in range(2)
    ]
    assert paths == [settings.cache / "deep" / "w"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert host.paths() == ["w"]
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    paths[0].write_bytes(CONTENT[:-1])  # damaged: it is fetched again; the first digits of a hash are enough
    assert fetch_url(f"{host.url}w", SHA256[:8], "deep/w", settings=settings).read_bytes() == CONTENT


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_the_umask_decides_who_may_read_it(host, settings):
    before = os.umask(0o027)
    try:
        path = fetched(host, settings)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


BUSY = [500, 429, "cut", 200]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("answers", [["slow"], BUSY, ["long", 200], [("wait", 429, 3), 200]], ids=str)
def test_a_server_that_recovers_gives_the_file(host, settings, waits, answers, ranges):
    host.answers["w"], host.ranges = list(answers), ranges
    path = fetched(host, settings)
    assert path.read_bytes() == CONTENT
    assert sorted(path.name for path in settings.cache.iterdir()) == [".w.lock", "w"]
    assert waits == {500: [1, 2, 1], ("wait", 429, 3): [3]}.get(answers[0], waits)


@pytest.mark.parametrize(
    ("answers", "requests", "words"),
    [
        ([404], 1, "the server says 404 Not Found"),
        ([("wait", 429, 3)], 3, "the server says 429 Too Many Requests"),
        ([("wait", 503, 86400)], 1, r"the server says 503 Service Unavailable, and to come back in 86,400 s\."),
        (["wrong"], 1, "What came from .* is not w as it is known: its SHA-256 does not begin with"),
        ([("to", "/w")], 10, "the server redirects more than 10 times"),
        ([("to", "http://example.org/w")], 1, "redirects to 'http://example.org/w', which is not encrypted"),
    ],
    ids=str,
)
def test_a_server_that_does_not_is_one_sentence(host, settings, waits, answers, requests, words):
    host.answers["w"] = list(answers)
    with pytest.raises(SpherectlError, match=words) as caught:
        fetched(host, settings)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)
    assert host.paths().count("w") == requests
    assert under_its_name(settings) == []


def test_nobody_there_is_a_sentence_that_says_how_to_do_it_by_hand(settings, waits):
    with pytest.raises(SpherectlError, match=r"Cannot fetch w from http://127\.0\.0\.1:1/w: no connection\.") as caught:
        fetch_url("http://127.0.0.1:1/w", SHA256, "w", settings=settings)
    by_hand = f"download http://127.0.0.1:1/w and put it at {settings.cache / 'w'}."
    assert (waits, caught.value.hint) == ([1, 2], f"Where there is a network, {by_hand}")


def test_what_was_cut_again_and_again_is_joined_from_its_parts(host, settings, waits):
    """More often than three times: each attempt brings 30% of what is left."""
    host.answers["w"] = ["cut"] * 4 + [200]
    assert fetched(host, settings).read_bytes() == CONTENT
    asked = [int(one.headers.get("range", "bytes=0-")[6:-1]) for one in host.asked]
    assert asked == sorted(set(asked))
    assert [one.status for one in host.asked] == [200] + [206] * 4
    assert waits == [1] * 4  # each time as if it were the first
    waits.clear()
    host.asked.clear()
    host.answers["w"], host.ranges = ["cut"], False  # at the same place: there is no part to go on from
    with pytest.raises(SpherectlError, match="the connection broke off"):
        fetch_file([f"{host.url}w"], "v", sha256=SHA256, settings=settings)
    assert (len(host.asked), waits) == (downloader.ATTEMPTS, [1, 2])


def test_the_next_call_goes_on_where_the_last_one_stopped(host, settings, waits):
    host.answers["w"] = ["cut", 500, 500, 500, 200]
    with pytest.raises(SpherectlError, match="the server says 500"):
        fetched(host, settings)
    had = (settings.cache / ".w.part").stat().st_size
    assert 0 < had < len(CONTENT)
    assert fetched(host, settings).read_bytes() == CONTENT
    assert host.asked[-1].headers["range"] == f"bytes={had}-"
    assert "if-range" in host.asked[-1].headers


def test_a_file_that_changed_meanwhile_is_fetched_anew(host, settings, waits):
    """By its ETag where there is one; else the hash tells, and nothing old is in the second attempt."""
    other = CONTENT[::-1]
    host.answers["w"] = ["cut", 500, 500, 500, 200]
    with pytest.raises(SpherectlError):
        fetched(host, settings, sha256="")
    host.files["w"] = other
    assert fetched(host, settings, sha256="").read_bytes() == other
    assert host.asked[-1].status == 200

    part = settings.cache / ".v.part"
    part.write_bytes(b"of another state")
    host.files["v"] = CONTENT
    path = fetch_file([f"{host.url}v"], "v", sha256=SHA256, settings=settings)
    assert path.read_bytes() == CONTENT
    assert [one.status for one in host.asked[-2:]] == [206, 200]


def test_a_part_that_is_whole_is_only_looked_at_and_none_joined_where_nothing_would_show_a_wrong_join(host, settings):
    settings.cache.mkdir()
    for part, statuses in ((CONTENT, [416]), (CONTENT + b"more than all", [416, 416, 200])):
        (settings.cache / ".w.part").write_bytes(part)
        assert fetched(host, settings).read_bytes() == CONTENT
        assert [one.status for one in host.asked] == statuses
        (settings.cache / "w").unlink()
    host.ranges = False
    (settings.cache / ".w.part").write_bytes(b"something")
    assert fetched(host, settings, sha256="").read_bytes() == CONTENT
    assert "range" not in host.asked[-1].headers


@pytest.mark.parametrize("answer", [200, "short"])
def test_a_wrong_length_is_refused_before_it_is_fetched(host, settings, answer):
    host.answers["w"] = [answer]
    with pytest.raises(SpherectlError, match=rf"has {'more than ' if answer != 'short' else ''}.* bytes; w must have"):
        fetched(host, settings, size=len(CONTENT) - (1000 if answer == 200 else 0))
    assert under_its_name(settings) == []
    assert not (settings.cache / ".w.part").exists()


def test_mirrors_are_tried_in_turn(host, settings, waits):
    host.files["wrong"] = CONTENT[::-1]
    urls = [f"{host.url}absent", f"{host.url}wrong", f"{host.url}w", f"{host.url}never"]
    assert fetch_file(urls, "w", sha256=SHA256, settings=settings).read_bytes() == CONTENT
    assert host.paths() == ["absent", "wrong", "w"]
    with pytest.raises(SpherectlError, match=r"never: the server says 404"):
        fetch_file([f"{host.url}absent", f"{host.url}never"], "v", sha256=SHA256, settings=settings)


def test_a_server_says_how_long_to_wait(host, settings, waits):
    soon = formatdate(time.time() + 20, usegmt=True)
    host.answers["w"] = [("wait", 503, 7), ("wait", 503, soon), ("wait", 503, "whenever"), 200]
    with pytest.raises(SpherectlError, match="503"):
        fetched(host, settings)
    assert waits[0] == 7
    assert 10 < waits[1] <= 20


def test_offline_asks_nobody(host, tmp_path, monkeypatch):
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    settings = Settings(cache=tmp_path)
    with pytest.raises(SpherectlError, match=r"w is missing, .* because SPHERECTL_OFFLINE says to stay offline"):
        fetched(host, settings)
    (tmp_path / "w").write_bytes(CONTENT)
    assert fetched(host, settings) == tmp_path / "w"
    assert host.asked == []


def test_a_cache_that_cannot_be_written_serves_what_it_has(host, settings, monkeypatch):
    path = fetched(host, settings)

    def refuse(*_args, **_options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("filelock.FileLock.__init__", refuse)
    assert fetched(host, settings) == path
    with pytest.raises(FileError, match=r"Cannot write to the cache .*: Read-only file system"):
        fetch_file([f"{host.url}w"], "v", sha256=SHA256, settings=settings)
    assert len(host.asked) == 1


@pytest.mark.parametrize(
    ("url", "sha256", "filename", "words"),
    [
        ("http://example.org/w", SHA256, "w", "expected an https address, got 'http://example.org/w'"),
        ("https://a:b@x/", SHA256, "w", "without a name and password"),
        ("https://x:99999/", SHA256, "w", "expected an address"),
        ("https://x/\x1b", SHA256, "w", "expected an address"),
        ("https://example.org/w", SHA256, "../w", "expected a path inside the folder, got '../w'"),
        ("https://example.org/w", SHA256, "a\\..\\..\\w", "expected a path inside the folder"),
        ("https://example.org/w", SHA256[:7], "w", "expected a SHA-256 in hexadecimal digits"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_not_safe_to_fetch_is_refused_before_asking(settings, monkeypatch, url, sha256, filename, words):
    monkeypatch.setattr(downloader.Downloader, "gather", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(UsageError) as caught:
        fetch_url(url, sha256, filename, settings=settings)
    assert words in caught.value.message
    assert caught.value.message.isprintable()
    assert not settings.cache.exists()


# Proxies and encryption


@pytest.fixture
def proxy(monkeypatch) -> Iterator[Host]:
    """A server that every variable names as the proxy; it lets nobody through."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with hosting() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        yield proxy


def test_a_proxy_is_used_but_not_for_this_machine(host, settings, proxy, waits):
    with pytest.raises(SpherectlError, match="no connection through the proxy"):
        fetch_file(["https://example.org/w"], "w", sha256=SHA256, settings=settings)
    assert set(proxy.paths()) == {"example.org:443"}
    for name in ("127.0.0.1", "LocalHost"):
        url = f"{host.url}w".replace("127.0.0.1", name)
        assert fetch_file([url], name, sha256=SHA256, settings=settings).read_bytes() == CONTENT
    assert set(proxy.paths()) == {"example.org:443"}


@pytest.fixture
def encryption(tmp_path, monkeypatch) -> ssl.SSLContext:
    """A certificate for this machine, made now, which requests is told to trust."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=127.0.0.1"
    words += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(words.split(), check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_an_encrypted_address_never_leads_to_one_that_is_not(host, settings, encryption, monkeypatch):
    """Not even to this machine, whose own addresses may be plain."""
    with hosting(encryption, w=CONTENT) as secure:
        secure.answers["away"] = [("to", f"{host.url}w")]
        secure.answers["within"] = [("to", "/w")]
        with pytest.raises(SpherectlError, match=rf"redirects to '{host.url}w', which is not encrypted"):
            fetch_file([f"{secure.url}away"], "w", sha256=SHA256, settings=settings)
        assert host.paths() == []
        assert fetch_file([f"{secure.url}within"], "w", sha256=SHA256, settings=settings).read_bytes() == CONTENT
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(SpherectlError, match="its certificate cannot be verified"):
            fetch_file([f"{secure.url}w"], "v", sha256=SHA256, settings=settings)
