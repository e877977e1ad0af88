"""The command line as a whole: order and help of its commands, its exit codes, completion."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import typer
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from spherectl import __version__, zoo
from spherectl.cli.app import Command, app
from spherectl.errors import FileError, TrainingError, UsageError

RUNNER = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})
SEE_WHERE = "Run again with --debug to see where it happened."
COMMANDS = [
    *("train", "sample", "edit", "interpolate", "restore", "encode", "evaluate", "export"),
    *("plot", "zoo", "recipes", "features", "doctor"),
]  # in the design's order


def run(*arguments: str):
    return RUNNER.invoke(app, list(arguments))


def commands(group, path=()):
    """All commands below a group, with the words that lead to them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        yield (*path, name), command


@pytest.fixture
def failing(monkeypatch):
    """Lets `spherectl zoo ls` end by an error."""

    def fail_by(error: BaseException) -> None:
        def index(_settings, **_options):
            raise error

        monkeypatch.setattr(zoo, "index", index)

    return fail_by


@pytest.mark.fast
def test_commands_are_listed_in_the_designs_order_and_all_that_is_taken_is_explained():
    help_page = run("--help").stdout
    places = [help_page.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)
    found = dict(commands(typer.main.get_command(app)))
    assert {path[0] for path in found} == set(COMMANDS)
    for path, command in found.items():
        assert command.help, path
        assert all(parameter.help for parameter in command.params), path
    leaves = [command for command in found.values() if not hasattr(command, "commands")]
    assert {type(command) for command in leaves} == {Command}  # which takes paths in the one way


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [(), ("zoo",)])
def test_without_a_command_help_is_shown(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: spherectl" in result.stdout
    assert result.stderr == ""


@pytest.mark.fast
def test_the_version_is_the_packages():
    result = run("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"spherectl {__version__}\n", "")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["zoo", "shw"], "No such command 'shw'. Did you mean 'show'?", "See `spherectl zoo --help`."),
        (["zoo", "ls", "--jsn"], "No such option: --jsn (Possible options: --json).", "See `spherectl zoo ls --help`."),
        (["zoo", "show"], "Missing argument 'NAME|hf:USER/REPO'.", "See `spherectl zoo show --help`."),
    ],
)
def test_a_slip_on_the_command_line_is_a_sentence(arguments, message, hint):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    told, help_line = result.stderr.splitlines()
    assert told.startswith(f"error: {message}")
    assert help_line == f"hint: {hint}"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (UsageError("Not so.", "Do this."), 2, "error: Not so.\nhint: Do this.\n"),
        (FileError("A [bold]file[/] of (1, 3) [/x]."), 1, "error: A [bold]file[/] of (1, 3) [/x].\n"),
        (TrainingError("a :smile: b"), 1, "error: a :smile: b\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 1, "error: No space left on device: a.png.\n"),
        (
            MemoryError(),
            1,
            "error: There is not enough memory for this.\nhint: A smaller --batch, or a smaller model.\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (typer.Abort(), 1, "error: Aborted.\n"),
        (typer.Exit(3), 3, ""),
        (
            RuntimeError("boom\n  [at] a place"),
            1,
            f"error: Unexpected error: RuntimeError: boom [at] a place.\nhint: {SEE_WHERE}\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_end_has_its_exit_code_and_sentence(failing, error, code, stderr):
    failing(error)
    result = run("zoo", "ls")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", stderr)


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [("--debug", "zoo", "ls"), ("zoo", "ls", "--debug")])
def test_debug_shows_where_it_happened_wherever_it_stands(failing, arguments):
    failing(UsageError("Not so."))
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("error: Not so.\n")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"]])  # written through rich, and past it
def test_a_full_disk_is_a_sentence_and_a_reader_that_goes_away_is_none(cli, arguments):
    full = "os.open('/dev/full', os.O_WRONLY)"
    unread = "(pipe := os.pipe())[1]; os.close(pipe[0])"
    sentence = "error: Cannot write the result to stdout: No space left on device.\n"
    for stdout, said in ((full, sentence), (unread, "")):
        code = f"import os\nout = {stdout}\nos.dup2(out, 1)\nfrom spherectl.cli.app import main\nmain()"
        ended = cli.python("-c", code, "zoo", *arguments)
        assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [("spherectl ", 1, COMMANDS), ("spherectl zoo ls --", 3, ["--refresh", "--json", "--help"])],
)
def test_bash_completes(cli, line, word, expected):
    asked = {"_SPHERECTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}
    ended = cli(env=asked)
    assert ended.returncode == 0
    assert ended.stdout.split() == expected


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_shells_get_a_script(cli, shell):
    ended = cli(env={"_SPHERECTL_COMPLETE": f"source_{shell}"})
    assert ended.returncode == 0
    assert "_SPHERECTL_COMPLETE" in ended.stdout


@pytest.mark.fast
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_torchrun_takes_no_option_for_one_of_its_own(name):
    """Its parser shortens its own options wherever they stand, even behind `-m spherectl`: `--run` was `--run-path`."""
    torchrun = get_args_parser()
    options = [option for one in typer.main.get_command(app).commands[name].params for option in one.opts]
    assert "--device" in options
    for option in options:
        given = [name, "x", option, "1"]
        assert torchrun.parse_args(["-m", "spherectl", *given]).training_script_args == given


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "--out", ""], "--out is empty."),
        (["train", "folder32", "--data", "", "--dry-run"], "The place of the data is empty."),
        (["sample", "--like", "a" * 300], "--like: expected names of at most 255 bytes"),
        (["sample", "--batch", "9" * 5000], "--batch"),
        (["sample", "\x1b[31mred"], "\\x1b[31mred"),
        (["sample", *["x" * 1000] * 1000], "xxx...xxx"),
    ],
)
def test_what_nobody_can_mean_is_one_short_printable_sentence(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr) < 700
    assert result.stderr.replace("\n", "").isprintable()
    assert "Unexpected error" not in result.stderr
    assert list(tmp_path.iterdir()) == []
