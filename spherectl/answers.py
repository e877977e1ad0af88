"""What a web server's answer, or the lack of one, means: to go on, to try again, or to give up, and in which words."""

from __future__ import annotations

import email.utils
import re
import time
from typing import Any

BUSY = (408, 429, 500, 502, 503, 504)  # answers that mean "later", not "no"


def length_of(header: str) -> int:
    """Bytes of a Content-Length; 0 where it does not say."""
    return int(header) if re.fullmatch(r"\d{1,18}", header.strip()) else 0


def content_range(header: str) -> tuple[int | None, int | None]:
    """First byte and whole length of "bytes 5-9/10" or "bytes */10"; None for what it does not say."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", header.strip())
    first, whole = match.groups() if match else (None, None)
    return int(first) if first else None, int(whole) if whole and whole != "*" else None


def retry_after(header: str) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; None if it is neither."""
    if re.fullmatch(r"\d{1,9}", header.strip()):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def may_pass(error: Any) -> bool:
    """Whether trying again can help: no answer or a busy server, but not a wrong address or a refusal."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in BUSY
    if isinstance(error, requests.exceptions.SSLError):
        return False
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def reason_of(error: Any) -> str:
    """Why a request failed, in words that follow a colon."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer for too long"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.ProxyError):
        return "no connection through the proxy"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, requests.ConnectionError):
        return "no answer for too long" if "Read timed out" in str(error) else "no connection"
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
