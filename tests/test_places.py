"""Places that a person names: what no file can be called is refused, and what is there is not replaced by surprise."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from spherectl.errors import FileError, UsageError
from spherectl.files import replacing
from spherectl.places import MAX_NAME, MAX_PARTS, check_writable, place

pytestmark = pytest.mark.fast


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["", "a\0b", "half \ud800", "é" * MAX_NAME, "a/" * (MAX_PARTS + 1), "a" * 10**7])
def test_a_name_that_no_file_can_have_is_a_short_sentence(text):
    for taken in ("é" * (MAX_NAME // 2), "old-\udcff.png", "a\x1b[31m"):
        assert place(taken) == Path(taken)
    with pytest.raises(UsageError, match="--out") as caught:
        place(text, "--out")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_pipes_sockets_and_devices_are_not_replaced(here):
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        for name in ("pipe.png", "socket.png", "/dev/null"):
            for folder in (False, True):
                with pytest.raises(UsageError, match="a pipe or a device"):
                    check_writable(Path(name), folder=folder)
    with pytest.raises(FileError, match="it is not a regular file"), replacing(Path("pipe.png")):
        pass
    assert sorted(path.name for path in here.iterdir()) == ["pipe.png", "socket.png"]


def test_a_name_without_room_for_a_temporary_one_is_found_before_anything_is_computed(here):
    check_writable(Path("a" * 200 + ".png"))
    with pytest.raises(FileError, match="File name too long"):
        check_writable(Path("a" * 250 + ".png"))
    assert list(here.iterdir()) == []


def test_a_file_is_no_folder_and_a_folder_no_file(here):
    Path("file").write_text("kept")
    Path("folder").mkdir()
    check_writable(Path("file"))
    check_writable(Path("folder"), folder=True)
    for name, folder in (("file", True), ("folder", False), ("file/a", False), ("file/a/b", True)):
        with pytest.raises(UsageError, match=r"is a file, not a folder|is a folder"):
            check_writable(Path(name), folder=folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits are set in a process of its own")
def test_a_file_size_limit_is_found_before_anything_is_computed(here):
    """A child with the limit 0, as after `ulimit -f 0`, says by its exit code whether it was told."""
    import resource

    child = os.fork()
    if not child:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            check_writable(here / "a.png")
        except FileError as error:
            code = 0 if "File too large" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
