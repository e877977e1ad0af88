"""The standard streams, so that nothing that is said can stop the work or take the place of a file.

Writing to stderr never fails: where nobody reads it (a closed pipe, a full disk) the rest is not said. What libraries
write there is made visible (`shown.printable`), and their warnings and logs are shown with --debug alone.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO

from spherectl.shown import printable

# How the descriptors 0, 1, 2 are opened where they are closed: results that nobody can get are an error, so stdout
# cannot be written; narration that nobody reads is none.
_MISSING = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)


class Steady(io.TextIOBase):
    """A stream whose writes never fail.

    Args:
        stream: where text goes as long as it can.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what can be written; the length of the text."""
        try:
            self.stream.write(text)
        except BlockingIOError:  # a reader that is slow for now
            pass
        except (OSError, ValueError):
            self._let_go()
        return len(text)

    def flush(self) -> None:
        """Pass on what is held back."""
        try:
            self.stream.flush()
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            self._let_go()

    def fileno(self) -> int:
        """Of the stream."""
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return self.stream.isatty()
        except ValueError:  # closed
            return False

    def _let_go(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            let_go(self.stream)


class Foreign(Steady):
    """What libraries see as stderr: what they write is made visible.

    Attributes:
        own: the same stream for text that is safe, colours included.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.own = Steady(stream)

    def write(self, text: str) -> int:
        """Write what can be written, escapes and other control characters visible; the length of the text."""
        super().write(printable(text, lines=True))
        return len(text)


def let_go(stream: TextIO) -> None:
    """Point a stream's file at nothing: what it holds back would fail again when Python ends.

    Raises:
        OSError, ValueError: it is no file.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, stream.fileno())
    finally:
        os.close(nothing)


@contextlib.contextmanager
def prepared(*, debug: bool) -> Iterator[None]:
    """Streams, warnings and logs as a command needs them; as before afterwards.

    Args:
        debug: whether libraries' warnings and logs are shown; where Python is asked for warnings (-W, PYTHONWARNINGS),
            they are shown in any case.
    """
    _open_missing()
    loud = debug or bool(sys.warnoptions)
    stderr, show_warning, disabled = sys.stderr, warnings.showwarning, logging.root.manager.disable
    if isinstance(sys.stdout, io.TextIOWrapper):  # the encoding may lack a character of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = Foreign(stderr)
    if not loud:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is imported
        logging.disable(logging.CRITICAL)
        warnings.showwarning = lambda *_, **__: None
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr, warnings.showwarning = stderr, show_warning
        logging.disable(disabled)


def _open_missing() -> None:
    """Open the standard descriptors that are closed: a file opened later would take their numbers, and our text."""
    for number, flags in enumerate(_MISSING):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, flags)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            else:
                os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
