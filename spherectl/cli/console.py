"""What the command line says and where: results on stdout; story and bars on stderr."""

from __future__ import annotations

import contextlib
import errno
import functools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from spherectl.cli import streams
from spherectl.errors import FileError, SpherectlError
from spherectl.shown import json_text, printable, shortened

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

QUIET_S = 2.0  # what takes less shows no bar
WIDE = 10_000  # columns of a pipe or file: whole lines, however long, not lines cut to a screen
LINE_EVERY_S = 30.0  # without a terminal, a line of text so often
MAX_CELL = 400  # characters of a table's cell


def say(text: str) -> None:
    """One line of narration on stderr."""
    _stderr().print(_plain(text), soft_wrap=True)


def show(text: str) -> None:
    """A result on stdout: one line, control characters visible."""
    _write(f"{printable(text)}\n")


def show_file(path: Path) -> None:
    """The name of a file that is written. The result is the file: that nobody reads its name is no error."""
    try:
        show(str(path))
    except (FileError, BrokenPipeError):
        drop_unwritable()


def show_document(text: str) -> None:
    """A text of several lines on stdout, as it is but for control characters."""
    _write(printable(text.replace("\r\n", "\n"), lines=True))


def show_markdown(text: str) -> None:
    """A card: laid out for a person's screen, as it is written for everything else."""
    if not is_terminal():
        show_document(text)
        return
    from rich.markdown import Markdown

    with _told():
        _stdout().print(Markdown(printable(text.replace("\r\n", "\n"), lines=True)))


def show_json(result: Any) -> None:
    """A result on stdout for machines: one JSON document, keys in the order given."""
    text = json_text(result)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_text(result, ascii_only=True)
    _write(f"{text}\n")


def show_rows(rows: list[dict[str, str]], right: tuple[str, ...] = ()) -> None:
    """A table on stdout: the keys of the rows are its heads; columns named in `right` are aligned right."""
    with _told():
        _stdout().print(_table(rows, right))


def say_labelled(label: str, style: str, text: str) -> None:
    """A line on stderr that begins with a word in colour."""
    from rich.text import Text

    _stderr().print(Text.assemble((f"{label}:", style), f" {printable(text)}"), soft_wrap=True)


def say_lines(text: str) -> None:
    """Several lines on stderr."""
    _stderr().print(_plain(text.rstrip(), lines=True), soft_wrap=True)


def say_rows(rows: list[dict[str, str]], right: tuple[str, ...] = ()) -> None:
    """The same on stderr."""
    _stderr().print(_table(rows, right))


def _table(rows: list[dict[str, str]], right: tuple[str, ...]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, head in enumerate(rows[0] if rows else ()):
        table.add_column(
            _cell(head), justify="right" if head in right else "left", overflow="fold", no_wrap=number == 0
        )
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row.values()))
    return table


def _cell(text: str) -> RenderableType:
    return _plain(shortened(text, MAX_CELL))


def _write(text: str) -> None:
    """Text that is safe to show, on stdout, at once."""
    if not _stdout().quiet:
        with _told():
            sys.stdout.write(text)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the body writes to stdout is there afterwards.

    Raises:
        BrokenPipeError: the reader went away.
        FileError: it cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except SpherectlError:
        raise
    except OSError as error:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
        raise FileError(f"Cannot write the result to stdout: {reason}.") from None


@contextlib.contextmanager
def only(speaks: bool) -> Iterator[None]:
    """Speak in the body only where `speaks`, which is so in the first of several processes; errors leave it."""
    consoles = () if speaks else (_stdout(), _stderr())
    for console in consoles:
        console.quiet = True
    try:
        yield
    finally:
        for console in consoles:
            console.quiet = False


def is_terminal() -> bool:
    """Whether stdout is a person's screen."""
    return _stdout().is_terminal


@contextlib.contextmanager
def progress(label: str, total: int | None = None, unit: str = "") -> Iterator[Bar]:
    """A bar on stderr, gone when it is done; nothing at all for what takes less than two seconds.

    Args:
        label: what is going on.
        total: of what is counted, if it is known.
        unit: "B" for bytes; else a word such as "images".

    Yields:
        A function to call with the count so far, and if they changed with a new total and a word on how it goes.
    """
    bar = Bar(label, total, unit)
    timer = threading.Timer(QUIET_S, bar.appear)
    timer.daemon = True
    timer.start()
    try:
        yield bar
    finally:
        timer.cancel()
        bar.vanish()


class Bar:
    """Progress of one task: a bar on a terminal, now and then a line elsewhere. Made by `progress`."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._unit = shortened(printable(label)), unit
        self._done, self._total, self._note = 0, total, ""
        self._lock = threading.Lock()
        self._ended = False
        self._rich: Progress | None = None
        self._next_line = time.monotonic() + QUIET_S

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far it is.

        Args:
            done: count so far.
            total: replaces the total if given and not 0.
            note: a word on how it goes.
        """
        with self._lock:
            self._done, self._total, self._note = done, total or self._total, printable(note)
            if self._rich is not None:
                self._rich.update(
                    self._rich.task_ids[0], completed=done, total=self._total, amount=self._amount(), note=self._note
                )
            elif not _stderr().is_terminal and time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + LINE_EVERY_S
                say(f"{self._label}: {self._amount()} {self._note}".rstrip())

    def appear(self) -> None:
        """Show the bar, if this is a terminal and the task has not ended."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        with self._lock:
            if self._ended or not _stderr().is_terminal:
                return
            text = functools.partial(TextColumn, markup=False)
            columns = (
                text("{task.description}"),
                BarColumn(),
                text("{task.fields[amount]}"),
                text("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._rich = Progress(
                *columns, console=_stderr(), transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._rich.add_task(
                self._label, completed=self._done, total=self._total, amount=self._amount(), note=self._note
            )
            self._rich.start()

    def vanish(self) -> None:
        """End: take the bar away."""
        with self._lock:
            self._ended = True
            if self._rich is not None:
                self._rich.stop()

    def _amount(self) -> str:
        """The count, the total if it is known, the unit: 128 of 50,000 images, 3.1 of 18.6 MB."""
        if self._unit == "B":
            numbers, unit = [f"{n / 1e6:.1f}" for n in (self._done, self._total) if n is not None], "MB"
        else:
            numbers, unit = [f"{n:,}" for n in (self._done, self._total) if n is not None], self._unit
        return f"{' of '.join(numbers)} {unit}".rstrip()


def drop_unwritable() -> None:
    """Let go of what stdout cannot take (a full disk, a closed pipe), which would fail again when Python ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            streams.let_go(sys.stdout)


def _plain(text: str, *, lines: bool = False) -> RenderableType:
    """Text that rich prints as it is: square brackets are not markup, numbers are not coloured."""
    from rich.text import Text

    return Text(printable(text, lines=lines))


def _stdout() -> Console:
    return _console(sys.stdout)


def _stderr() -> Console:
    return _console(getattr(sys.stderr, "own", sys.stderr))


@functools.lru_cache(maxsize=2)
def _console(stream: TextIO) -> Console:
    """One console a stream, so that text finds its place above a bar; made anew when a test swaps the stream."""
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    return console
