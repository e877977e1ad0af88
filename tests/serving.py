"""A web server on this machine that behaves as badly as it is told to, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request: its path, its headers in lower case, the status it got (noted before it is sent)."""

    path: str
    headers: dict[str, str]
    status: int = 0
    method: str = "GET"


@dataclass
class Host:
    """What a server has, and how it answers.

    Attributes:
        url: its address, ending in /.
        files: bytes by path, without the first slash.
        answers: for a path, what to answer in turn, the last for ever: a status, or
            "cut" (30% of what was asked for, then the connection closes), "short" (announces too few bytes),
            "long" (announces too many), "wrong" (other bytes), "slow" (in small pieces with pauses),
            ("wait", status, seconds) (with Retry-After), ("to", address) (a redirection).
        ranges: whether it sends parts of files, and ETags by which they can be joined.
        asked: all requests.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [one.path for one in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: Host
    lock: threading.Lock
    asked: Asked

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        self.asked = Asked(path, {name.lower(): value for name, value in self.headers.items()})
        with self.lock:
            self.host.asked.append(self.asked)
            queue = self.host.answers.get(path, [])
            answer = (queue.pop(0) if len(queue) > 1 else queue[0]) if queue else 200
        self.close_connection = True
        self.answer(path, answer)

    def do_CONNECT(self) -> None:
        """As a proxy that lets nobody through."""
        self.asked = Asked(self.path, {})
        self.host.asked.append(self.asked)
        self.close_connection = True
        self.head(403, {"Content-Length": "0"})

    def answer(self, path: str, answer: Any) -> None:
        if isinstance(answer, tuple):
            kind, value = answer[0], answer[1]
            if kind == "to":
                return self.head(302, {"Location": value, "Content-Length": "0"})
            return self.head(value, {"Retry-After": str(answer[2]), "Content-Length": "0"})
        if isinstance(answer, int) and answer != 200:
            return self.head(answer, {"Content-Length": "0"})
        if path not in self.host.files:
            return self.head(404, {"Content-Length": "0"})
        body, status, headers = self.host.files[path], 200, {}
        if self.host.ranges:
            etag = f'"{hashlib.md5(body).hexdigest()}"'
            headers = {"ETag": etag, "Accept-Ranges": "bytes"}
            asked = self.asked.headers
            part = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
            if part and asked.get("if-range", etag) == etag:
                start = int(part[1])
                if start >= len(body):
                    return self.head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                body, status = body[start:], 206
        if answer == "wrong":
            body = bytes(byte ^ 1 for byte in body)
        length = len(body) + {"short": -len(body) // 3, "long": 1000}.get(answer, 0)
        self.head(status, {**headers, "Content-Length": str(length)})
        return self.send(body[: len(body) * 3 // 10] if answer == "cut" else body, slow=answer == "slow")

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def send(self, body: bytes, *, slow: bool) -> None:
        piece = len(body) // 20 + 1 if slow else len(body) + 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(body), piece):
                self.wfile.write(body[start : start + piece])
                if slow:
                    self.wfile.flush()
                    time.sleep(0.01)

    def log_message(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # for tests of many fetches at once


@contextlib.contextmanager
def hosting(encrypted: ssl.SSLContext | None = None, **files: bytes) -> Iterator[Host]:
    """A server for as long as the body runs; with a context it speaks https."""
    host = Host(files=dict(files))
    handler = type("OwnHandler", (Handler,), {"host": host, "lock": threading.Lock()})
    with Server(("127.0.0.1", 0), handler) as server:
        if encrypted is not None:
            server.socket = encrypted.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        host.url = f"{'https' if encrypted else 'http'}://127.0.0.1:{server.server_port}/"
        yield host
        server.shutdown()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Speaker:
    """A server that is none: it says what it is told to, to whoever comes, until he leaves.

    Attributes:
        url: its address, ending in /.
        requests: heads of the requests.
        sent: bytes it got rid of, over all connections.
    """

    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0


@contextlib.contextmanager
def speaking(say: Callable[[int, bytes], Iterable[bytes]], connections: int = 50) -> Iterator[Speaker]:
    """A `Speaker` for as long as the body runs.

    Args:
        say: for connection 0, 1, ... and the path that is asked for, the pieces it says; a generator may pause between
            them, or never end.
        connections: after so many it hears nobody any more.
    """
    speaker = Speaker()

    def serve(number: int, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(20)
            head = b""
            while b"\r\n\r\n" not in head and (piece := client.recv(1 << 16)):
                head += piece
            speaker.requests.append(head)
            for piece in say(number, [*head.split(), b"", b""][1]):
                client.sendall(piece)
                speaker.sent += len(piece)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for number in range(connections):
                threading.Thread(target=serve, args=(number, listener.accept()[0]), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        speaker.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        yield speaker
        listener.shutdown(socket.SHUT_RDWR)
