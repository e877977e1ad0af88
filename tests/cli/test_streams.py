"""What is said never stops the work: readers that go away, full disks, closed streams, libraries that talk."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from spherectl.cli import console, failures, streams

SAMPLE = ["sample", "--count", "1", "--steps", "1", "--out", "a.png"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no such streams")


class Broken(io.StringIO):
    """A stream that nobody reads any more."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.fast
def test_stderr_never_fails(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken())
    with streams.prepared(debug=False):
        console.say("a")
        console.say_rows([{"a": "b"}])
        sys.stderr.write("c")
        sys.stderr.flush()
        print("d", file=sys.stderr, flush=True)
        assert failures.report(ValueError("e"), debug=True) == 1


@pytest.mark.fast
def test_a_closed_stderr_is_none(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with streams.prepared(debug=False):
        console.say("a")
        assert sys.stderr.isatty() is False


@pytest.mark.fast
def test_everything_of_before_is_back_afterwards(capsys):
    before = sys.stderr, warnings.showwarning, logging.root.manager.disable
    with streams.prepared(debug=False):
        pass
    assert (sys.stderr, warnings.showwarning, logging.root.manager.disable) == before


TALK = """
import logging, sys, warnings
from spherectl.cli import streams
with streams.prepared(debug=sys.argv[1] == "debug"):
    warnings.warn("warning of a \\x1b[31mlibrary")
    logging.getLogger("a.library").warning("log of a \\x1b[31mlibrary")
    print("words of a \\x1b[31mlibrary", file=sys.stderr)
"""


@pytest.mark.fast
@pytest.mark.parametrize(
    ("python", "mode", "heard"),
    [
        ([], "", ["words"]),
        ([], "debug", ["warning", "log", "words"]),
        (["-W", "default"], "", ["warning", "log", "words"]),
    ],
)
def test_libraries_are_heard_with_debug_alone_and_made_visible(cli, python, mode, heard):
    """In a process of its own, since pytest keeps warnings to itself."""
    command = [sys.executable, *python, "-c", TALK, mode]
    said = subprocess.run(command, env=cli.environment(), capture_output=True, text=True, check=True).stderr
    found = [kind for kind in ("warning", "log", "words") if f"{kind} of a \\x1b[31mlibrary" in said]
    assert found == heard
    assert "\x1b" not in said


def ends(cli, arguments: list[str], shell: str) -> subprocess.CompletedProcess[str]:
    """A command with its streams as a shell redirects them."""
    line = f'exec "$@" {shell}'
    return subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, "-m", "spherectl", *arguments],
        cwd=cli.folder,
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("shell", ["2>/dev/full", "<&- >&- 2>&-"])
def test_a_file_is_written_whoever_listens(cli, shell):
    ended = ends(cli, SAMPLE, shell)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in cli.folder.iterdir() if path.is_file()] == ["a.png"]
    assert (cli.folder / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "error" not in ended.stderr


@pytest.mark.slow
def test_no_encoding_lacks_a_character(cli):
    ended = cli(*SAMPLE[:-1], "ä.png", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()
    assert "Error" not in ended.stderr


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(None, 0), (signal.SIGINT, 130)])
def test_a_log_that_nobody_reads_stops_no_training(cli, fashion_excerpt, number, code):
    """As in `train 2>&1 | tee log`, where Ctrl-C ends tee first: both streams of the training are one broken pipe."""
    reading, writing = os.pipe()
    images = 200 if number is None else 8000
    options = [word for key in ("length", "checkpoint", "sample") for word in ("--set", f"run.{key}_images={images}")]
    process = subprocess.Popen(
        [sys.executable, "-m", "spherectl", "train", "debug", "--data", fashion_excerpt, "--run-dir", "x", *options],
        cwd=cli.folder,
        env=cli.environment(),
        stdout=writing,
        stderr=subprocess.STDOUT,
    )
    os.close(writing)
    log = cli.folder / "x" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not log.exists() or log.read_text().count("\n") <= 3:
        assert process.poll() is None
        assert time.monotonic() < until, "it took two minutes"
        time.sleep(0.05)
    os.close(reading)
    if number is not None:
        process.send_signal(number)
    assert process.wait(timeout=120) == code
    assert (cli.folder / "x" / "model.safetensors").is_file()
    seen = json.loads(log.read_text().splitlines()[-1])["images_seen"]
    assert seen == images if number is None else seen < images


@POSIX
@pytest.mark.slow
def test_a_result_is_whole_without_stderr_and_an_error_without_stdout(cli):
    listing = ["zoo", "ls", "--json"]
    ended = ends(cli, listing, "2>&-")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)
    ended = ends(cli, listing, ">&-")
    assert (ended.returncode, ended.stderr) == (1, "error: Cannot write the result to stdout: it is closed.\n")
