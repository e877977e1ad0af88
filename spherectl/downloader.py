"""One file over HTTP: continued where it broke off, tried again where that can help, never led off encryption."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from spherectl import http
from spherectl.addresses import MAX_FILE, MismatchError, RefusedError, check_room, redirected
from spherectl.documents import parse_json
from spherectl.errors import FileError, SpherectlError
from spherectl.files import file_hash, read_text
from spherectl.progress import Progress
from spherectl.shown import shortened

ATTEMPTS = 3  # in a row that bring no new byte, with waits of 1 and 2 seconds between
MIN_PROGRESS = 1 << 16  # bytes by which an attempt counts as one that brought something
LONGEST_WAIT_S = 60  # that a server may ask for by Retry-After
HOPS = 10  # redirections
STARTS = 3  # of a file whose hash is wrong because states of it were joined
MIN_FREE = 1 << 30  # bytes that such a file leaves on the disk, looked at each `LOOK` bytes
LOOK = 16 << 20
MIN_RATE = 1_000  # bytes a second on the average of `RATE_S` seconds; a modem brings 5,000
RATE_S = 60
MAX_NOTE = 1 << 16  # bytes of the note beside a part: an address and a mark


class Downloader:
    """Fetches a file for pooch, which calls it with an address and the place where the file has to be afterwards.

    Bytes gather in a file of their own. If the connection breaks off they stay there, with a note of the server's mark
    for this state of the file (its ETag), so that the next attempt, or the next process, asks for the rest alone.

    Args:
        part: where bytes gather.
        path: what the file will be called, for errors.
        sha256: what it must have: 64 digits, the first of them, or none.
        size: bytes it must have; None where nobody knows.
        max_bytes: it may have then; None: `MAX_FILE`.
        within_s: seconds in which all of it has to come, over all attempts.
        progress: called with bytes done and bytes in all.
    """

    def __init__(
        self,
        part: Path,
        path: Path,
        *,
        sha256: str = "",
        size: int | None = None,
        max_bytes: int | None = None,
        within_s: float = math.inf,
        progress: Progress | None = None,
    ) -> None:
        self.part, self.path, self.sha256, self.size = part, path, sha256, size
        self.max_bytes, self.within_s, self._until = max_bytes or MAX_FILE, within_s, math.inf
        self._progress = progress
        self._note = part.with_name(f"{part.name}.json")

    def __call__(self, url: str, output_file: str, _pooch: Any = None) -> None:
        """Fetch `url` to `output_file`.

        Raises:
            RefusedError: the server says no.
            MismatchError: what came has another size or SHA-256, or more bytes than any such file.
            FileError: the disk has no room for it.
            SpherectlError: no answer, or a busy server, at every attempt; or it comes too slowly.
        """
        Path(output_file).unlink(missing_ok=True)  # pooch's empty file, which a killed process would leave behind
        self.gather(url)
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(output_file)
        self._note.unlink(missing_ok=True)

    def gather(self, url: str) -> None:
        """Bring the whole of `url` into the part; raises as the call does."""
        failures, furthest, starts = 0, self._done(), 1
        self._until = time.monotonic() + self.within_s
        while True:
            try:
                at_once = self._attempt(url)
            except requests.RequestException as error:
                failures += 1
                if self._done() >= furthest + MIN_PROGRESS:
                    furthest, failures = self._done(), 1
                if failures == ATTEMPTS or not http.may_pass(error) or time.monotonic() > self._until:
                    self._tidy(url)
                    raise self._failed(url, error) from None
                time.sleep(self._wait(url, error, failures))
                continue
            except MismatchError:
                self.drop()
                raise
            if self._fits():
                return
            self.drop()
            if at_once or starts == STARTS:
                raise MismatchError(
                    f"What came from {url} is not {self.path.name} as it is known: its SHA-256 does not begin with "
                    f"{self.sha256[:12]}, so it was not kept.",
                    "If the connection is to be trusted, the file was replaced: tell whoever offers it.",
                )
            failures, furthest, starts = 0, 0, starts + 1  # two states of the file were joined: from its start

    def drop(self) -> None:
        """Forget what has come."""
        self.part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _attempt(self, url: str) -> bool:
        """Fetch what is missing; returns whether that was everything, so that nothing old is in the file."""
        have = self._done() if self._may_continue(url) else 0
        with self._opened(url, have) as response:
            status, length = response.status_code, http.length_of(response.headers.get("Content-Length", ""))
            first, whole = http.content_range(response.headers.get("Content-Range", ""))
            if have and status == 416 and whole == have:
                return False  # all of it had come; only its hash was not looked at
            if have and (status == 416 or (status == 206 and first != have)):
                self.drop()
                return self._attempt(url)
            if status != 200 and not (have and status == 206):
                raise requests.RequestException(f"the server answers {status} to a request for the whole file")
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.strip().lower() != "identity":
                raise RefusedError(
                    f"{self._cannot(url)}: the server sends it compressed "
                    f"({shortened(encoding, http.MAX_REASON)}), which was not asked for."
                )
            start = have if status == 206 else 0
            total = start + length if length else 0
            self._check_size(url, total)
            self._check_room((total or self.size or 0) - start)
            self._remember(url, response.headers)
            done = self._write(url, http.pieces(response), start, total)
        if total and done < total:
            raise requests.exceptions.ChunkedEncodingError("the connection broke off")
        self._check_size(url, done)
        return start == 0

    def _write(self, url: str, body: Iterator[bytes], start: int, total: int) -> int:
        done, known = start, total or self.size or 0
        looked, timed, then = done, done, time.monotonic()
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            for piece in body:
                done += len(piece)
                if done > (self.max_bytes if self.size is None else self.size):
                    self._check_size(url, done)
                file.write(piece)
                if not known and done >= looked + LOOK:
                    looked = done
                    self._check_room(0, MIN_FREE)
                now = time.monotonic()
                if now > then + RATE_S:
                    self._check_rate(url, (done - timed) / (now - then))
                    timed, then = done, now
                if now > self._until:
                    raise SpherectlError(f"{self._cannot(url)}: it takes longer than {self.within_s:,.0f} s.")
                if self._progress is not None:
                    self._progress(done, known)
        return done

    @contextlib.contextmanager
    def _opened(self, url: str, have: int) -> Iterator[Any]:
        """The answer to a request for the bytes from `have` on, redirections followed one by one and looked at."""
        address = url
        for _ in range(HOPS):
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
                headers |= {"If-Range": self._validator(url)} if self._validator(url) else {}
            with http.opened(address, headers) as response:
                if not response.is_redirect:
                    if response.status_code != 416:
                        response.raise_for_status()
                    yield response
                    return
                location = response.headers["Location"]
            try:
                address = redirected(address, location)
            except ValueError as error:
                raise RefusedError(
                    f"Cannot fetch {self.path.name} from {address}: the server redirects to {error}."
                ) from None
        raise RefusedError(f"{self._cannot(url)}: the server redirects more than {HOPS} times.")

    def _may_continue(self, url: str) -> bool:
        """Whether a wrong join would be noticed: by the server's own mark for this address, or by the hash."""
        return bool(self.sha256) or bool(self._validator(url))

    def _validator(self, url: str) -> str:
        """The server's mark for the state that the part is of; empty where none is noted for this address."""
        try:
            match parse_json(read_text(self._note, MAX_NOTE)):
                case {"url": str(noted), "validator": str(validator)} if noted == url and http.is_validator(validator):
                    return validator
        except (OSError, ValueError):  # none, or a damaged one
            pass
        return ""

    def _remember(self, url: str, headers: Any) -> None:
        self._note.write_text(json.dumps({"url": url, "validator": http.validator_of(headers)}), encoding="utf-8")

    def _tidy(self, url: str) -> None:
        """Keep a part only if there is something in it that can be continued."""
        if not self._done() or not self._may_continue(url):
            self.drop()

    def _done(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def _fits(self) -> bool:
        return not self.sha256 or file_hash(self.part).startswith(self.sha256)

    def _check_size(self, url: str, got: int) -> None:
        if self.size is None and got > self.max_bytes:
            raise MismatchError(
                f"What comes from {url} has more than {self.max_bytes:,} bytes, "
                f"which {self.path.name} may have at most; it was not kept."
            )
        if self.size is not None and got and got != self.size:
            raise MismatchError(
                f"What comes from {url} has {'more than ' if got > self.size else ''}{min(got, self.size):,} bytes; "
                f"{self.path.name} must have {self.size:,}, so it was not kept.",
                "If the connection is to be trusted, the file was replaced: tell whoever offers it.",
            )

    def _check_rate(self, url: str, bytes_per_s: float) -> None:
        if bytes_per_s < MIN_RATE:
            raise SpherectlError(
                f"{self._cannot(url)}: it brings {bytes_per_s:,.0f} bytes a second, expected at least {MIN_RATE:,}.",
                "The same command goes on where this one stopped.",
            )

    def _check_room(self, needed: int, kept: int = 0) -> None:
        try:
            check_room(self.path.name, self.part.parent, needed, kept)
        except FileError:
            if kept:
                self.drop()
            raise

    def _wait(self, url: str, error: Any, failures: int) -> float:
        """Seconds until the next attempt: as the server asks, if that is not long, else growing."""
        response = getattr(error, "response", None)
        asked = http.retry_after(response.headers.get("Retry-After", "")) if response is not None else None
        if asked is not None and asked > LONGEST_WAIT_S:
            self._tidy(url)
            raise SpherectlError(
                f"{self._cannot(url)}: {http.reason_of(error)}, and to come back in {asked:,.0f} s.",
                "Try again then.",
            )
        return 2 ** (failures - 1) if asked is None else asked

    def _cannot(self, url: str) -> str:
        return f"Cannot fetch {self.path.name} from {url}"

    def _failed(self, url: str, error: Any) -> SpherectlError:
        message = f"{self._cannot(url)}: {http.reason_of(error)}."
        by_hand = f"Where there is a network, download {url} and put it at {self.path}."
        hint = by_hand if self.path.is_absolute() else ""
        if http.may_pass(error):
            return SpherectlError(message, hint)
        return RefusedError(message, hint, error.response.status_code if error.response is not None else 0)
