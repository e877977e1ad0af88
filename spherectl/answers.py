"""What a web server's answer, or the lack of one, means: to go on, to try again, or to give up, and in which words."""

from __future__ import annotations

import email.utils
import http.client
import re
import time
from typing import Any

from spherectl.shown import shortened

MAX_REASON = 80  # characters of a server's or a library's own words

BUSY = (408, 429, 500, 502, 503, 504)  # answers that mean "later", not "no"


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
