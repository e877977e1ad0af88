"""The one map from exceptions to sentences and exit codes.

The codes are 2 for a mistake in what was asked, 1 for a failure in the world, 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import traceback

import typer

from spherectl.cli import console
from spherectl.errors import ElsewhereError, SpherectlError
from spherectl.shown import sentence, shortened

MAX_MESSAGE = 400  # characters of a message that is not our own
MAX_TRACEBACK = 100_000  # characters


def report(error: BaseException, *, debug: bool) -> int:
    """Tell an error in a sentence on stderr, with a hint on a line of its own.

    Args:
        error: what ended the command.
        debug: whether its traceback is shown as well.

    Returns:
        The exit code.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, ElsewhereError):
        return error.exit_code
    console.drop_unwritable()
    if isinstance(error, BrokenPipeError):
        return 1  # the reader went away, as `head` does
    if debug:
        console.say_lines(shortened("".join(traceback.format_exception(error)), MAX_TRACEBACK))
    message, hint, code = _explain(error)
    if message:
        console.say_labelled("error", "bold red", message)
    if hint:
        console.say_labelled("hint", "bold", hint)
    return code


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Message, hint, exit code."""
    if isinstance(error, SpherectlError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, typer.TyperException):
        # Typer's own, about options and arguments. Its message is empty where it has shown the help instead.
        message = error.format_message()
        context = getattr(error, "ctx", None)
        return (
            _ended(message),
            f"See `{context.command_path} --help`." if context and message else "",
            error.exit_code,
        )
    if isinstance(error, typer.Abort):
        return "Aborted.", "", 1
    if _is_out_of_memory(error):
        return "There is not enough memory for this.", "A smaller --batch, or a smaller model.", 1
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror if error.filename is None else f"{error.strerror}: {os.fsdecode(error.filename)}"
        return _ended(reason), "", 1
    if (full := _no_room(error)) is not None:
        return _ended(full), "Make room, or choose another place.", 1
    return (
        _ended(f"Unexpected error: {type(error).__name__}: {error}"),
        "Run again with --debug to see where it happened.",
        1,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's error, or one of torch's and other libraries', which is no class of its own on CPUs."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    said = ("can't allocate memory", "not enough memory", "std::bad_alloc")
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in said))


def _no_room(error: BaseException) -> str | None:
    """The system's own words, where a library wraps them in an error of its own: no room, or too few threads."""
    text = shortened(str(error), 10_000)
    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        if os.strerror(number) in text:
            return os.strerror(number)
    return "The system starts no more threads" if "can't start new thread" in text else None


def _ended(text: str) -> str:
    """A message of anybody on one line, as a sentence."""
    text = sentence(shortened(" ".join(text.split()), MAX_MESSAGE))
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
