"""The errors a person meets: one sentence, a hint with the next command, an exit code.

A mistake in what was asked for exits with 2; a failure in the world (network, disk, a bad file) exits with 1.
Library code raises these; only the command line turns them into text. Each is also the builtin exception that a Python
programmer expects: a `ValueError`, an `OSError`, a `RuntimeError`.
"""

from __future__ import annotations

from spherectl.shown import MAX_SENTENCE, printable, sentence, shortened


class SpherectlError(Exception):
    """Base of every error spherectl raises on purpose.

    Args:
        message: one sentence that says what was expected, what was found, and what follows.
        hint: what to do next, with a command where there is one; shown on a line of its own.

    Both are made safe to show (`shown`): what they repeat comes from anywhere.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = sentence(message)
        self.hint = shortened(printable(hint), MAX_SENTENCE)  # whole words: a path in it is to be copied
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(SpherectlError, ValueError):
    """The request itself cannot be met: an unknown name, a value out of range, a wrong combination."""

    exit_code = 2


class FileError(SpherectlError, OSError):
    """A file or folder is missing, damaged, of another kind, or cannot be written."""


class TrainingError(SpherectlError, RuntimeError):
    """Training had to stop: a loss that is not finite, a run that another process holds."""


class ElsewhereError(SpherectlError):
    """Another process of the same command ended by a mistake of its own, which it tells itself."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("Another process of this command stopped, and said why.")
        self.exit_code = exit_code
