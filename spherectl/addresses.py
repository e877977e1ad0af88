"""Addresses of files on the network: which may be asked at all, and where a redirection may lead."""

from __future__ import annotations

import urllib.parse

from spherectl.shown import quoted

MAX_ADDRESS = 8_192  # characters; signed addresses of stores have 2,000
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_url(url: str) -> None:
    """Refuse an address that is neither encrypted nor on this machine, or that is none.

    Raises:
        ValueError: it is such an address; the message follows a colon.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # whose range is looked at when it is asked for
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:
        raise ValueError(f"expected an address, got {quoted(url)}") from None
    if len(url) > MAX_ADDRESS or not url.isprintable():
        raise ValueError(f"expected an address, got {quoted(url)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"expected an address of {quoted(host)} without a name and password (~/.netrc may hold them)")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise ValueError(f"expected an https address, got {quoted(url)}")


def is_loopback(url: str) -> bool:
    """Whether an address that `check_url` has passed is on this machine, so that no proxy knows it."""
    return urllib.parse.urlsplit(url).hostname in LOOPBACK


def redirected(address: str, location: str) -> str:
    """The address that an answer's Location leads to.

    From an encrypted address only another one is taken; from this machine's only what could be fetched anyway.

    Args:
        address: that was asked.
        location: the header, its bytes as Latin-1.

    Raises:
        ValueError: it may not be asked; the message follows "the server redirects to".
    """
    try:
        location = location.encode("latin-1").decode("utf-8")
        target = urllib.parse.urljoin(address, location)
        scheme = urllib.parse.urlsplit(target).scheme
    except ValueError:
        raise ValueError(f"{quoted(location)}, which is no address") from None
    if scheme != "https" and not (scheme == "http" and urllib.parse.urlsplit(address).scheme == "http"):
        raise ValueError(f"{quoted(target)}, which is not encrypted")
    try:
        check_url(target)
    except ValueError:
        plain = "which is not encrypted" if scheme == "http" else "which is no address that is asked"
        raise ValueError(f"{quoted(target)}, {plain}") from None
    return target
