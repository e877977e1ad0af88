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


def test_without_a_terminal_a_line_is_written_now_and_then(capsys, monkeypatch):
    with console.progress("quick", 10, "images") as bar:
        bar(5)
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


@pytest.mark.parametrize("text", ["[model] is [/x]", "a :smile: 12 /etc", "x" * 500])
def test_text_stays_as_it_is(capsys, text):
    console.say(text)
    console.show(text)
    assert capsys.readouterr() == (f"{text}\n", f"{text}\n")


def test_tables_are_whole_in_a_pipe(capsys):
    console.show_rows(
        [{"name": "a", "px": "32", "about": "[b] " * 100}, {"name": "bb", "px": "256", "about": ""}], ("px",)
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "px", "about"]
    assert first.rstrip() == f"a      32  {'[b] ' * 100}".rstrip()
    assert second.rstrip() == "bb    256"


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
        lambda text: failures.report(UsageError(text, text), debug=True),
        lambda text: failures.report(typer.BadParameter(text), debug=False),
    ],
)
def test_no_control_character_reaches_a_terminal(speak, capsys):
    speak(HOSTILE)
    said = "".join(capsys.readouterr())
    assert VISIBLE in said
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize("error", [ValueError("x" * 10**7), typer.BadParameter("x " * 10**6)])
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
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 5 bytes"), "not enough memory"),
    ],
)
def test_what_the_world_lacks_is_a_sentence_whoever_says_it(error, words, capsys):
    assert failures.report(error, debug=False) == 1
    assert words in capsys.readouterr().err


def test_json_gives_back_what_it_was_given_in_order(capsys):
    console.show_json({HOSTILE: HOSTILE, "b": "ä", "a": [1, None]})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == {HOSTILE: HOSTILE, "b": "ä", "a": [1, None]}
    assert out.index('"b"') < out.index('"a"')
    assert "ä" in out


def test_on_a_terminal_the_bar_appears_and_goes_also_when_the_task_fails(terminal):
    def task() -> None:
        with console.progress(f"sampling [x] {HOSTILE}", 10, "images") as bar:
            bar(3)
            bar.appear()  # as the timer does after two seconds
            bar(4, note=f"fast [y] {HOSTILE}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        task()
    shown = terminal.getvalue()
    assert "sampling [x]" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased
    assert "\x1b[31m" not in shown
    assert "title\x07" not in shown
