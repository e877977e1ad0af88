"""Options of every command with hostile numbers, words and paths; the commands say themselves which they have."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import strategies as st

from tests.hostile import bases
from tests.hostile.documents import as_word, words_of
from tests.hostile.harness import Attempt, File, fifo, link
from tests.hostile.models import recipe_text
from tests.hostile.values import NUMBERS, command_lines, pick, texts

# A quick command line of each command, to which an option more is added: what comes last counts.
LINES = command_lines("""
train r.toml --data DATA --dry-run
sample --model M --count 1 --steps 1 --out o.png
edit a.png --reconstruct --model M --out o.png
interpolate --seeds 1,2 --frames 2 --model M --out o.png
restore a.png --task denoise --rounds 1 --model M --out o.png
encode a.png --model M --out l.safetensors
evaluate M --count 16 --steps 1 --reference test --data DATA --reconstructions 0 --bootstrap 0
export --format published --model M --out published
doctor
plot training tiny --out o.png
plot samples M --steps 1 --count 1 --out o.png
zoo ls
zoo show fashion-mnist
zoo fetch fashion-mnist
zoo rm fashion-mnist
zoo add M --index zoo/index.toml --name mine
recipes ls .
recipes show debug
recipes check debug
features check fashion-scorer --data DATA
""")
GROUPS = ("plot", "zoo", "recipes", "features")
COMMANDS = {line[: 1 + (line[0] in GROUPS)]: line[1 + (line[0] in GROUPS) :] for line in LINES}
NEVER = {"--help", "--compile", "--profile", "--device", "--smoke"}  # what takes minutes, or another machine
NUMBER_LISTS = [
    *("1,2", "1,,2", ",", "1-3", "0-999999999999", "1e9", "-1", "1:2", "4" * 5000, "0x10", "1_000", "٣", "²"),
    "1,1,1," * 999,
]
PATHS = [
    *("", " ", ".", "..", "/", "//", "o", "o.npz", "d", "a.png", "-", "--", "~nouser/o.png", "~", "a\nb.png"),
    *("\x1b[31mo.png", "\udcff\udcfe.png", "x" * 300 + ".png", "a/" * 3000 + "o.png", "/dev/null", "/dev/full"),
    *("/dev/stdout", "/dev/fd/1", "/proc/self/x.png", "/proc/o.png", "fifo.png", "loop.png", "a.png/b.png", "o.jpg"),
    *(
        "o.PNG",
        "con.png:x",
        "*.png",
        "a**",
        "http://127.0.0.1:9/o.png",
        "hf:a/b",
        "hf:",
        "hf:../..",
        "file:///etc/passwd",
    ),
    *("hf:a/b@\x1b[31m", "%00.png", "$HOME/o.png", "`id`.png", "; id", "missing/o.png", ".hidden.png", "\u202egnp.o"),
]
# Options that are paths, and the commands that have them.
PATH_OPTIONS = {
    **dict.fromkeys(("--data", "--run-dir", "--from"), ("train",)),
    **dict.fromkeys(("--like", "--latents"), ("sample",)),
    **dict.fromkeys(("--reference", "--save-stats", "--features"), ("evaluate",)),
    **dict.fromkeys(("--mask", "--kernel"), ("restore",)),
    **dict.fromkeys(("--index", "--url"), ("zoo", "add")),
}


@functools.cache
def options_of(command: tuple[str, ...]) -> list[tuple[str, bool]]:
    """The options of a command, and whether each is a flag."""
    from typer.main import get_command

    from spherectl.cli.app import app

    found: Any = get_command(app)
    for word in command:
        found = found.commands[word]
    given = [parameter for parameter in found.params if parameter.param_type_name == "option"]
    return [(parameter.opts[0], bool(parameter.is_flag)) for parameter in given if parameter.opts[0] not in NEVER]


@st.composite
def attempts(draw: Any) -> Attempt:
    """A command line with an option or an argument too many, too large, too strange."""
    command = pick(draw, *sorted(COMMANDS))
    words: list[str] = list(COMMANDS[command])
    numbers = st.sampled_from(NUMBERS).map(as_word)
    hostile = st.one_of(numbers, st.sampled_from(NUMBER_LISTS), st.sampled_from(PATHS), texts)
    for _ in range(draw(st.integers(1, 2))):
        known = options_of(command)
        if known and draw(st.integers(0, 5)):
            name, is_flag = pick(draw, *known)
            words += [name] if is_flag else [name, draw(hostile)]
        elif draw(st.booleans()):
            words.append(draw(hostile))
        elif words:
            words[draw(st.integers(0, len(words) - 1))] = draw(hostile)
    return Attempt("options", words_of(*command, *words), beside(command))


@st.composite
def places(draw: Any) -> Attempt:
    """Every option that is a path, with strange paths."""
    having = [(command, name) for command in COMMANDS for name, _ in options_of(command)]
    everywhere = [(command, name) for command, name in having if name in {"--out", "--model", "--mask", "--data"}]
    command, option = pick(draw, *everywhere, *((command, name) for name, command in PATH_OPTIONS.items()))
    words = (*command, *COMMANDS[command], option, pick(draw, *PATHS))
    return Attempt("paths", words_of(*words), beside(command))


def beside(command: tuple[str, ...]) -> dict[str, File]:
    """What the quick command lines need."""
    files: dict[str, File] = {"m.safetensors": bases.tiny(), "a.png": bases.image(), "fifo.png": fifo}
    files |= {"r.toml": recipe_text(bases.RECIPE), "loop.png": link("loop.png")}
    if command == ("plot", "training"):
        files |= {f"tiny/{name}": content for name, content in bases.run_files().items()}
    return files


KINDS = {"options": attempts(), "paths": places()}
