"""Fetching from servers that are slow, break off, lie, refuse and recover: the right file or one sentence."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pooch
import pytest

from spherectl import transfer
from spherectl.errors import FileError, SpherectlError
from spherectl.fetch import fetch_file
from spherectl.settings import Settings
from spherectl.transfer import Downloader
from tests.serving import Host, hosting, sha256

ROOT = Path(__file__).resolve().parents[1]
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


BUSY = [500, 429, "cut", 200]


@pytest.mark.fast
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize(
    "answers",
    [[200], ["slow"], ["cut", 200], BUSY, ["long", 200], ["cut", "cut", "slow"], [("wait", 429, 3), 200]],
    ids=str,
)
def test_a_server_that_recovers_gives_the_file(host, settings, waits, answers, ranges):
    host.answers["w"], host.ranges = list(answers), ranges
    path = fetched(host, settings)
    assert path.read_bytes() == CONTENT
    assert sorted(path.name for path in settings.cache.iterdir()) == [".w.lock", "w"]


@pytest.mark.fast
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize(
    ("answers", "requests", "words"),
    [
        ([404], 1, "the server says 404 Not Found"),
        ([403], 1, "the server says 403 Forbidden"),
        ([500], 3, "the server says 500 Internal Server Error"),
        ([("wait", 429, 3)], 3, "the server says 429 Too Many Requests"),
        ([("wait", 503, 86400)], 1, r"the server says 503 Service Unavailable, and to come back in 86,400 s\."),
        (["wrong"], 1, "What came from .* is not w as it is known: its SHA-256 does not begin with"),
        (["short"], 1, "is not w as it is known"),
        ([("to", "/elsewhere")], 1, "the server says 404"),
        ([("to", "/w")], 10, "the server redirects more than 10 times"),
        ([("to", "http://example.org/w")], 1, "redirects to 'http://example.org/w', which is not encrypted"),
        ([("to", "file:///etc/passwd")], 1, "redirects to 'file:///etc/passwd', which is not encrypted"),
    ],
    ids=str,
)
def test_a_server_that_does_not_is_one_sentence(host, settings, waits, answers, requests, words, ranges):
    host.answers["w"], host.ranges = list(answers), ranges
    with pytest.raises(SpherectlError, match=words) as caught:
        fetched(host, settings)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)
    assert host.paths().count("w") == requests
    assert under_its_name(settings) == []


@pytest.mark.fast
def test_what_was_cut_again_and_again_is_joined_from_its_parts(host, settings, waits):
    """More often than three times: each attempt brings 30% of what is left."""
    host.answers["w"] = ["cut"] * 4 + [200]
    assert fetched(host, settings).read_bytes() == CONTENT
    asked = [int(one.headers.get("range", "bytes=0-")[6:-1]) for one in host.asked]
    assert asked == sorted(set(asked))
    assert [one.status for one in host.asked] == [200] + [206] * 4
    assert waits == [1] * 4  # each time as if it were the first


@pytest.mark.fast
def test_without_ranges_three_cuts_at_the_same_place_are_enough(host, settings, waits):
    host.answers["w"], host.ranges = ["cut"], False
    with pytest.raises(SpherectlError, match="the connection broke off"):
        fetched(host, settings)
    assert (len(host.asked), waits) == (3, [1, 2])


@pytest.mark.fast
def test_the_next_call_goes_on_where_the_last_one_stopped(host, settings, waits):
    host.answers["w"] = ["cut", 500, 500, 500, 200]
    with pytest.raises(SpherectlError, match="the server says 500"):
        fetched(host, settings)
    had = (settings.cache / ".w.part").stat().st_size
    assert 0 < had < len(CONTENT)
    assert fetched(host, settings).read_bytes() == CONTENT
    assert host.asked[-1].headers["range"] == f"bytes={had}-"
    assert "if-range" in host.asked[-1].headers


@pytest.mark.fast
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


@pytest.mark.fast
def test_a_part_that_is_whole_is_only_looked_at(host, settings):
    settings.cache.mkdir()
    (settings.cache / ".w.part").write_bytes(CONTENT)
    assert fetched(host, settings).read_bytes() == CONTENT
    assert [one.status for one in host.asked] == [416]
    (settings.cache / "w").unlink()
    (settings.cache / ".w.part").write_bytes(CONTENT + b"more than all")
    assert fetched(host, settings).read_bytes() == CONTENT
    assert [one.status for one in host.asked] == [416, 416, 200]


@pytest.mark.fast
def test_a_part_is_not_joined_where_nothing_would_show_a_wrong_join(host, settings):
    host.ranges = False
    settings.cache.mkdir()
    (settings.cache / ".w.part").write_bytes(b"something")
    assert fetched(host, settings, sha256="").read_bytes() == CONTENT
    assert "range" not in host.asked[0].headers


@pytest.mark.fast
@pytest.mark.parametrize("answer", [200, "short", "long"])
def test_a_wrong_length_is_refused_before_it_is_fetched(host, settings, answer):
    host.answers["w"] = [answer]
    with pytest.raises(SpherectlError, match=rf"has {'more than ' if answer != 'short' else ''}.* bytes; w must have"):
        fetched(host, settings, size=len(CONTENT) - (1000 if answer == 200 else 0))
    assert under_its_name(settings) == []
    assert not (settings.cache / ".w.part").exists()


@pytest.mark.fast
def test_mirrors_are_tried_in_turn(host, settings, waits):
    host.files["wrong"] = CONTENT[::-1]
    urls = [f"{host.url}absent", f"{host.url}wrong", f"{host.url}w", f"{host.url}never"]
    assert fetch_file(urls, "w", sha256=SHA256, settings=settings).read_bytes() == CONTENT
    assert host.paths() == ["absent", "wrong", "w"]
    with pytest.raises(SpherectlError, match=r"never: the server says 404"):
        fetch_file([f"{host.url}absent", f"{host.url}never"], "v", sha256=SHA256, settings=settings)


@pytest.mark.fast
def test_a_server_says_how_long_to_wait(host, settings, waits):
    soon = formatdate(time.time() + 20, usegmt=True)
    host.answers["w"] = [("wait", 503, 7), ("wait", 503, soon), ("wait", 503, "whenever"), 200]
    with pytest.raises(SpherectlError, match="503"):
        fetched(host, settings)
    assert waits[0] == 7
    assert 10 < waits[1] <= 20


@pytest.mark.fast
def test_a_full_disk_is_known_before_anything_is_fetched(host, settings, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _place: usage)
    with pytest.raises(FileError, match=r"w needs 2 MB more, and the disk of .* has 1 MB free") as caught:
        fetched(host, settings)
    assert "SPHERECTL_CACHE" in caught.value.hint
    assert under_its_name(settings) == []


@pytest.mark.fast
def test_a_header_goes_to_whom_it_is_for(host, settings):
    """Redirections are followed one by one, and the headers asked for again."""
    with hosting(w=CONTENT) as other:
        host.answers["w"] = [("to", f"{other.url}w")]
        secret = {"Authorization": "Bearer secret"}
        path = fetched(host, settings, headers=lambda address: secret if address.startswith(host.url) else {})
        assert path.read_bytes() == CONTENT
        assert host.asked[0].headers["authorization"] == "Bearer secret"
        assert "authorization" not in other.asked[0].headers


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def proxy(monkeypatch) -> Iterator[Host]:
    """A server that every variable names as the proxy; it lets nobody through."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with hosting() as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.url)
        yield proxy


@pytest.mark.fast
def test_a_proxy_is_used(settings, proxy, waits):
    with pytest.raises(SpherectlError, match="no connection through the proxy"):
        fetch_file(["https://example.org/w"], "w", sha256=SHA256, settings=settings)
    assert set(proxy.paths()) == {"example.org:443"}


@pytest.mark.fast
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost"])
def test_this_machine_is_asked_without_a_proxy(host, settings, proxy, name):
    url = f"{host.url}w".replace("127.0.0.1", name)
    assert fetch_file([url], "w", sha256=SHA256, settings=settings).read_bytes() == CONTENT
    assert proxy.asked == []


@pytest.fixture
def encryption(tmp_path, monkeypatch) -> ssl.SSLContext:
    """A certificate for this machine, made now, which requests is told to trust."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
    ]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, *name], check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.fast
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


@pytest.mark.fast
def test_pooch_can_be_given_the_downloader(host, tmp_path, waits):
    host.answers["w"] = ["cut", "cut", 200]
    downloader = Downloader(tmp_path / "w.part", tmp_path / "w")
    path = pooch.retrieve(f"{host.url}w", f"sha256:{SHA256}", fname="w", path=tmp_path, downloader=downloader)
    assert Path(path).read_bytes() == CONTENT
    assert [one.status for one in host.asked] == [200, 206, 206]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]


@pytest.mark.fast
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
@pytest.mark.parametrize("answers", [["slow"], ["cut", "slow"]], ids=str)
def test_of_24_fetches_at_once_one_asks(cli, host, tmp_path, answers):
    """Four processes of six threads."""
    host.answers["w"] = list(answers)
    command = [sys.executable, "-c", FETCHING, str(tmp_path / "cache"), f"{host.url}w", SHA256, "6"]
    environment = cli.environment()

    def run(_number: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(run, range(4)))
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * 4
    assert " ".join(one.stdout for one in ended).split() == [str(len(CONTENT))] * 24
    assert len(host.asked) == len(answers)
    assert (tmp_path / "cache" / "deep" / "w").read_bytes() == CONTENT


@pytest.mark.slow
def test_a_killed_fetch_is_continued_by_the_next_process(cli, host, tmp_path):
    host.files["w"] = CONTENT * 20
    host.answers["w"] = ["slow", 200]
    command = [sys.executable, "-c", FETCHING, str(tmp_path / "cache"), f"{host.url}w", sha256(CONTENT * 20), "1"]
    started = subprocess.Popen(command, env=cli.environment())
    part = tmp_path / "cache" / "deep" / ".w.part"
    while not part.is_file() or part.stat().st_size == 0:
        assert started.poll() is None
        time.sleep(0.001)
    started.kill()
    started.wait()
    assert not (tmp_path / "cache" / "deep" / "w").exists()
    subprocess.run(command, env=cli.environment(), check=True, capture_output=True)
    assert (tmp_path / "cache" / "deep" / "w").read_bytes() == CONTENT * 20
    assert host.asked[-1].status == 206
    assert sorted(path.name for path in part.parent.iterdir()) == [".w.lock", "w"]
