"""Questions to web servers, with a limit in bytes and seconds for each read, and what their answers mean.

requests and http.client wait as long as some byte comes now and then, whatever it is: a head or a chunk's length in
drips, "100 Continue" again and again, the body of a redirection, which requests reads before it leaves it.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import io
import re
import time
from collections.abc import Iterator
from typing import Any

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from spherectl.addresses import is_loopback
from spherectl.shown import shortened

TIMEOUT_S = 30  # without a connection, an answer, or another byte
MAX_HEAD_S = 60  # until the head of an answer is there
MAX_HEAD = 1 << 18  # its bytes; servers send 1 kB. Between two pieces of a body chunks and trailers may have as many
PIECE = 1 << 16  # bytes of a body read at once, at most
MAX_REASON = 80  # characters of a server's or a library's own words
BUSY = (408, 429, 500, 502, 503, 504)  # answers that mean "later", not "no"


class _Metered(io.RawIOBase):
    """The bytes that come from a socket, so many and for so long as was last allowed."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.allow(MAX_HEAD, MAX_HEAD_S)

    def allow(self, max_bytes: int, seconds: float) -> None:
        """Let `max_bytes` come within `seconds` from now."""
        self._left, self._until = max_bytes, time.monotonic() + seconds

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


class _Response(http.client.HTTPResponse):
    """An answer whose head is limited, and each read of its body."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._metered = _Metered(self.fp.detach())
        self.fp = io.BufferedReader(self._metered)

    def read1(self, n: int = -1) -> bytes:
        self._metered.allow(max(n, 0) + MAX_HEAD, TIMEOUT_S)
        return super().read1(n)


class _Adapter(HTTPAdapter):
    """Connections, through a proxy or not, that answer by `_Response`."""

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = type("_Connection", (pool.ConnectionCls,), {"response_class": _Response})
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


def length_of(header: str) -> int:
    """Bytes of a Content-Length; 0 where it does not say."""
    return int(header) if re.fullmatch(r"\d{1,18}", header.strip()) else 0


def content_range(header: str) -> tuple[int | None, int | None]:
    """First byte and whole length of "bytes 5-9/10" or "bytes */10"; None for what it does not say."""
    match = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", header.strip())
    first, whole = match.groups() if match else (None, None)
    return int(first) if first else None, int(whole) if whole and whole != "*" else None


def retry_after(header: str) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; None if it is neither."""
    if re.fullmatch(r"\d{1,9}", header.strip()):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, IndexError):  # the library's, for dates that are none
        return None


def validator_of(headers: Any) -> str:
    """What tells one state of a file from another: its ETag, else when it was changed; empty if neither is usable."""
    etag, changed = str(headers.get("ETag", "")), str(headers.get("Last-Modified", ""))
    return next((text for text in (etag, changed) if is_validator(text)), "")


def is_validator(text: str) -> bool:
    """Whether a text may be sent back as If-Range: a strong ETag or a date."""
    return re.fullmatch(r'"[!#-~]{0,200}"|[A-Za-z]{3}, [A-Za-z0-9: ]{15,30}', text) is not None


def may_pass(error: Any) -> bool:
    """Whether trying again can help: no answer or a busy server, but not a wrong address or a refusal."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in BUSY
    if isinstance(error, requests.exceptions.SSLError):
        return False
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def reason_of(error: Any) -> str:
    """Why a request failed, in words that follow a colon."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {shortened(str(error.response.reason), MAX_REASON)}"
    if isinstance(error, requests.Timeout):
        return "no answer for too long"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.ProxyError):
        return "no connection through the proxy"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, requests.ConnectionError):
        if "Read timed out" in str(error):
            return "no answer for too long"
        return "the answer is not HTTP" if _is_no_http(error) else "no connection"
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "a header of the request or the answer is not valid"  # it may hold a token
    return shortened((str(error).splitlines() or [""])[0].rstrip("."), MAX_REASON) or type(error).__name__


def _is_no_http(error: Any) -> bool:
    """Whether something came, but no answer as HTTP has it."""
    causes = [cause for outer in error.args for cause in getattr(outer, "args", ())]
    return any(isinstance(cause, http.client.HTTPException) for cause in causes) and not any(
        isinstance(cause, http.client.RemoteDisconnected) for cause in causes
    )
