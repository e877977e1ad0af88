"""The console: bars that appear only when worth it, text that stays as it is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console

from spherectl.cli import console, failures
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast


@pytest.fixture
def terminal(monkeypatch):
    """Both streams are one terminal of 60 columns, in memory."""
    screen = io.StringIO()
    shown = Console(file=screen, force_terminal=True, width=60, highlight=False, _environ={})
    monkeypatch.setattr(console, "_console", lambda _stream: shown)
    return screen


def test_what_is_quick_shows_nothing(capsys):
    with console.progress("sampling", 10, "images") as bar:
        bar(5)
        bar(10)
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_a_line_is_written_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET_S", 0.0)
    with console.progress("sampling", 50_000, "images") as bar:
        bar(1000, note="loss [0.5]")
        bar(2000)  # too soon after the first
    with console.progress("fetching", None, "B") as bar:
        bar(1_500_000)
    with console.progress("fetching", None, "B") as bar:
        bar(1_500_000, 3_000_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "sampling: 1,000 of 50,000 images loss [0.5]",
        "fetching: 1.5 MB",
        "fetching: 1.5 of 3.0 MB",
    ]


def test_on_a_terminal_the_bar_appears_and_goes(terminal):
    with console.progress("drawing [x]", 10, "images") as bar:
        bar(3)
        bar.appear()  # as the timer does after two seconds
        bar(4, note="fast [y]")
    shown = terminal.getvalue()
    assert "drawing [x]" in shown
    assert "3 of 10 images" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_a_timer_that_fires_too_late_draws_nothing(terminal):
    with console.progress("sampling", 10) as bar:
        pass
    bar.appear()
    assert terminal.getvalue() == ""


def test_the_bar_goes_when_the_task_fails(terminal):
    def task() -> None:
        with console.progress("sampling", 10) as bar:
            bar.appear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        task()
    assert terminal.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("text", ["[model] is [/x]", "a :smile: 12 /etc", "x" * 500])
def test_text_stays_as_it_is(capsys, text):
    console.say(text)
    console.show(text)
    assert capsys.readouterr() == (f"{text}\n", f"{text}\n")


def test_long_lines_are_not_broken_on_a_terminal(terminal):
    path = "/a/long/path" * 10
    console.say(path)
    assert terminal.getvalue() == f"{path}\n"  # the terminal wraps it; copied, it is whole


def test_tables_are_whole_in_a_pipe(capsys):
    console.show_rows(
        [{"name": "a", "px": "32", "about": "[b] " * 100}, {"name": "bb", "px": "256", "about": ""}], ("px",)
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "px", "about"]
    assert first.rstrip() == f"a      32  {'[b] ' * 100}".rstrip()
    assert second.rstrip() == "bb    256"


def test_json_is_one_document_in_order(capsys):
    console.show_json({"b": "ä", "a": [1, None]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"b": "ä", "a": [1, None]}
    assert out.index('"b"') < out.index('"a"')
    assert "ä" in out


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 5 bytes")]
)
def test_too_little_memory_is_a_sentence(error, capsys):
    assert failures.report(error, debug=False) == 1
    assert "error: There is not enough memory for this." in capsys.readouterr().err


HOSTILE = "a\x1b[31mred\x1b]0;title\x07\u202e\x9b\udcff"
VISIBLE = "a\\x1b[31mred\\x1b]0;title\\x07\\u202e\\x9b\\xff"


@pytest.mark.parametrize(
    "speak",
    [
        console.say,
        console.show,
        lambda text: console.show_file(Path(text)),
        console.show_document,
        console.show_markdown,
        lambda text: console.show_rows([{"name": text}]),
        lambda text: console.say_rows([{text: "x"}]),
        lambda text: failures.report(ValueError(text), debug=False),
        lambda text: failures.report(UsageError(text, text), debug=True),
        lambda text: failures.report(OSError(2, "No such file", text), debug=False),
        lambda text: failures.report(typer.BadParameter(text), debug=False),
    ],
)
def test_no_control_character_reaches_a_terminal(speak, capsys):
    speak(HOSTILE)
    said = "".join(capsys.readouterr())
    assert VISIBLE in said
    assert said.replace("\n", "").isprintable()


def test_json_gives_back_what_it_was_given(capsys):
    console.show_json({HOSTILE: HOSTILE})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == {HOSTILE: HOSTILE}


def test_bars_and_their_notes_are_printable(terminal):
    with console.progress(f"drawing {HOSTILE}", 10, "images") as bar:
        bar.appear()
        bar(4, note=HOSTILE)
    assert "\x1b[31m" not in terminal.getvalue()
    assert "title\x07" not in terminal.getvalue()


@pytest.mark.parametrize("error", [ValueError("x" * 10**7), typer.BadParameter("x " * 10**6), OSError(2, "y " * 10**6)])
def test_a_message_of_megabytes_is_short(error, capsys):
    failures.report(error, debug=False)
    assert len(capsys.readouterr().err) < 600


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), "error: No space left on device."),
        (RuntimeError("I/O error: File too large (os error 27)"), "error: File too large."),
        (RuntimeError("can't start new thread"), "error: The system starts no more threads."),
        (RuntimeError("std::bad_alloc"), "error: There is not enough memory for this."),
    ],
)
def test_what_the_world_lacks_is_a_sentence_whoever_says_it(error, words, capsys):
    assert failures.report(error, debug=False) == 1
    assert words in capsys.readouterr().err
