"""Connections to web servers in which nothing lasts for ever: each read has a limit in bytes and in seconds.

requests and http.client wait as long as some byte comes now and then, whatever it is: a head or a chunk's length in
drips, "100 Continue" again and again, the body of a redirection, which requests reads before it leaves it.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import time
from collections.abc import Iterator
from typing import Any

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from spherectl.addresses import is_loopback

TIMEOUT_S = 30  # without a connection, an answer, or another byte
MAX_HEAD_S = 60  # until the head of an answer is there
MAX_HEAD = 1 << 18  # its bytes; servers send 1 kB. Between two pieces of a body chunks and trailers may have as many
PIECE = 1 << 16  # bytes of a body read at once, at most


class _Metered(io.RawIOBase):
    """The bytes that come from a socket, so many and for so long as was last allowed."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.allow(MAX_HEAD, MAX_HEAD_S)

    def allow(self, most: int, seconds: float) -> None:
        """Let `most` bytes come within `seconds` from now."""
        self._left, self._until = most, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if time.monotonic() > self._until:
            raise TimeoutError("it takes too long")
        if self._left < 0:
            raise http.client.HTTPException("more than an answer has")
        got = self._raw.readinto(buffer)
        self._left -= got or 0
        return got

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose head is limited, and each read of its body."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._metered = _Metered(self.fp.detach())
        self.fp = io.BufferedReader(self._metered)

    def read1(self, n: int = -1) -> bytes:
        self._metered.allow(max(n, 0) + MAX_HEAD, TIMEOUT_S)
        return super().read1(n)


class _Adapter(HTTPAdapter):
    """Connections, through a proxy or not, that answer by `_Answer`."""

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = type("_Connection", (pool.ConnectionCls,), {"response_class": _Answer})
        return pool


@contextlib.contextmanager
def opened(address: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    """The head of an answer; redirections are not followed, and nothing of a body is read that is not asked for.

    Proxies, certificates and ~/.netrc count as they do for requests; an address on this machine is asked directly.

    Args:
        address: that `check_url` has passed.
        headers: of the request.

    Raises:
        requests.RequestException: no answer, or none that is HTTP.
    """
    with requests.Session() as session, contextlib.closing(_Adapter()) as adapter:
        try:
            request = session.prepare_request(requests.Request("GET", address, headers=headers))
            options = session.merge_environment_settings(address, {}, True, None, None)
            if is_loopback(address):
                options["proxies"] = {}
            # Not session.send, which reads the body of a redirection.
            response = adapter.send(request, timeout=TIMEOUT_S, **options)
        except requests.RequestException:
            raise
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError, OSError) as error:
            raise requests.RequestException(error) from None
        with response:
            yield response


def pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it is sent, not decompressed, in the pieces in which it comes.

    Raises:
        requests.RequestException: it ends before it should, or nothing comes for too long.
    """
    try:
        while piece := response.raw.read1(PIECE, decode_content=False):
            yield piece
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from None
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        raise requests.exceptions.ChunkedEncodingError(error) from None
