"""A fork of a process that has torch imported does what a new Python does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forked import python_run, server_environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")]

TELL = """
import json, os, sys
print(json.dumps([sys.argv, os.getcwd(), dict(os.environ), sys.path, __name__, sys.stdin.read()]))
print("ä", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


def new_run(*words: str, env: dict[str, str], cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=env, cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )


def test_words_streams_folder_variables_and_exit_code_are_those_of_a_new_python(tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    env = server_environment() | {"A": "ä"}
    for words in (["tell.py", "3"], ["-c", TELL, "0"], ["-m", "tell", "7"], ["-c", "import nothing"]):
        fork, new = (run(*words, env=env, cwd=tmp_path, stdin="in") for run in (python_run, new_run))
        assert (fork.returncode, fork.stdout) == (new.returncode, new.stdout)
        assert fork.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_a_command_says_and_writes_what_it_does_in_a_new_python(cli: Any, tmp_path: Path) -> None:
    words, found = ["-m", "spherectl", "sample", "--count", "1", "--steps", "1", "--out", "a.png"], []
    for run in (python_run, new_run):
        ended = run(*words, env=cli.environment(), cwd=tmp_path)
        found.append((ended.returncode, ended.stdout, ended.stderr, (tmp_path / "a.png").read_bytes()))
    assert found[0] == found[1]
    assert (found[0][0], found[0][1].split()) == (0, ["a.png"])
    wrong = cli("no-such-command")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no-such-command" in wrong.stderr
