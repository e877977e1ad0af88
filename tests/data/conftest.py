"""Tars as WebDataset writes them, and a server on this machine for what is fetched."""

from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def image_bytes(colour: int, suffix: str = "png") -> bytes:
    """An 8 x 8 image of one grey, in the format of the suffix."""
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def labelled(first: int, labels: list[int]) -> dict[str, bytes]:
    """Members KEY.png and KEY.cls, the image's grey being its number from `first` on."""
    members: dict[str, bytes] = {}
    for number, label in enumerate(labels, first):
        members[f"{number:06d}.png"] = image_bytes(number)
        members[f"{number:06d}.cls"] = f"{label}".encode()
    return members


@dataclass
class Server:
    """Serves a folder; `asked` has every path that was asked for, `answers` the status that some get in its place."""

    url: str = ""
    folder: Path = Path()
    asked: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)

    def count(self, suffix: str) -> int:
        """How often something with this ending was asked for."""
        return sum(path.endswith(suffix) for path in self.asked)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the folder `server.folder`, empty at first."""
    state = Server(folder=tmp_path / "served")
    state.folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if self.path in state.answers:
                self.send_error(state.answers[self.path])
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler: Callable[..., Handler] = functools.partial(Handler, directory=str(state.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{running.server_address[1]}/"
        yield state
        running.shutdown()


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder in the settings, and nothing from the system."""
    monkeypatch.setenv("SPHERECTL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("spherectl.data.datasets.SYSTEM_DATA", tmp_path / "system")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(name="write_tar")
def _write_tar() -> Callable[..., Path]:
    return write_tar


@pytest.fixture(name="labelled")
def _labelled() -> Callable[[int, list[int]], dict[str, bytes]]:
    return labelled


@pytest.fixture(name="image_bytes")
def _image_bytes() -> Callable[..., bytes]:
    return image_bytes
