"""Files appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spherectl.errors import FileError
from spherectl.files import NOT_REGULAR, open_regular, read_bytes, read_text, replacing, write_text

pytestmark = pytest.mark.fast


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stands_until_the_body_has_ended(tmp_path):
    """The text is UTF-8, the folder is made, and no other file is left in it."""
    path = tmp_path / "x" / "y" / "a.txt"
    write_text(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"  # writers that go by the suffix work
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert path.read_text(encoding="utf-8") == "ä\n"
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize(("raised", "old"), [(RuntimeError("x"), None), (KeyboardInterrupt(), "old")])
def test_a_body_that_raises_leaves_everything_as_it_was(tmp_path, raised, old):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise raised

    with pytest.raises(type(raised)):
        write()
    assert names(tmp_path) == ([] if old is None else ["a.txt"])
    assert old is None or path.read_text() == old


@pytest.mark.parametrize("where", ["write_text", "fsync"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch, where):
    """The disk may be full when the file is written, or only when the system writes it out."""

    def full(*_arguments, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (Path, "write_text")), full)
    with pytest.raises(FileError) as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.message == f"Cannot write {tmp_path / 'a.txt'}: No space left on device."
    assert caught.value.exit_code == 1
    assert names(tmp_path) == []


def test_contents_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    """Synced, renamed, folder synced: in another order a power cut could leave the name of an empty file."""
    done = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle):
        done.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        real_sync(handle)

    def replace(self, target):
        done.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "a.txt", "1")
    assert done == ["sync file", "rename", *(["sync folder"] if os.name == "posix" else [])]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_get_the_mode_of_the_umask_which_threads_that_write_at_once_leave_as_it_was(tmp_path, monkeypatch):
    """Who reads it sets it for a moment; here for so long that a second thread would read that."""
    before, real = os.umask(0o027), os.umask

    def slow(mask: int) -> int:
        found = real(mask)
        time.sleep(0.01)
        return found

    monkeypatch.setattr(os, "umask", slow)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: write_text(tmp_path / f"{i}.txt", "1"), range(8)))
        assert real(0o027) == 0o027
    finally:
        real(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_place_where_no_file_can_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "a.txt").mkdir()
    for place in ("file/a.txt", "a.txt"):
        with pytest.raises(FileError, match="Cannot write"):
            write_text(tmp_path / place, "1")
    assert (tmp_path / "file").read_text() == "kept"
    assert names(tmp_path) == ["a.txt", "file"]


def test_writers_at_the_same_time_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    texts = [str(i) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "missing", "socket"])
def test_only_a_regular_file_is_opened_and_nothing_is_waited_for(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the reason is looked at
        open_regular(path)
    right = {"folder": "Is a directory", "missing": "No such file or directory"}
    assert raised.value.strerror == right.get(kind, NOT_REGULAR)


def test_a_file_is_read_up_to_a_limit_as_utf_8(tmp_path):
    path = tmp_path / "x"
    path.write_bytes("\ufeffgrün".encode())
    assert read_text(path) == "grün"
    assert read_bytes(path, most=8) == path.read_bytes()
    with pytest.raises(OSError, match="more than 7 bytes"):
        read_bytes(path, most=7)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(OSError, match="byte 3 is not UTF-8"):
        read_text(path)
    with pytest.raises(OSError, match="no file can have this name"):
        read_text("a\0b")
