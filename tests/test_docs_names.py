"""Every name that the pages write in backticks exists: commands, options, keys, functions, files; every link leads on.

Names of other people's things, and values that a page makes up, stand in `ELSEWHERE`.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any, get_args

import pytest
from typer.main import get_command

from spherectl.cli.app import app
from spherectl.recipe import Recipe
from spherectl.settings import Settings

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "zoo").glob("*.md")])
SOURCES = ("spherectl", "benchmarks", "experiments", "tests", "tools")
SUFFIXES = (".py", ".md", ".toml", ".json", ".txt", ".sh", ".c", ".html", ".js", ".css")

ELSEWHERE = {
    *("nohup", "srun", "--signals-to-handle SIGTERM,SIGINT,SIGUSR1", "https_proxy"),  # programs and their options
    *(f"dinov2-vit-{size}-14" for size in "sblg"),  # other people's names
    'torch_fidelity.calculate_metrics(feature_extractor=register("fashion-scorer"), ...)',
    *("OffscreenCanvas", "__MACOSX", "data_batch_5.bin", "train/dog", "train/wild"),  # in other people's archives
    *("CNAME", "my-zoo/birds.md", "KEY.json"),  # files of a reader
}
PLACEHOLDER = re.compile(r"NAME|\.\.\.")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


# What there is


@functools.cache
def commands() -> dict[str, set[str]]:
    """The options of each command, by its words: `zoo ls`."""
    found: dict[str, set[str]] = {}

    def add(command: Any, words: tuple[str, ...]) -> None:
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        found[" ".join(words)] = {option for option in options if option.startswith("-")} | {"--help", "-h", "--debug"}
        for name, inner in getattr(command, "commands", {}).items():
            add(inner, (*words, name))

    add(get_command(app), ())
    return found


@functools.cache
def recipe_keys() -> set[str]:
    """`table` and `table.key` of recipes."""
    tables = {name: field.annotation for name, field in Recipe.model_fields.items()}
    found = set(tables)
    for name, table in tables.items():
        for one in (table, *get_args(table)):
            found |= {f"{name}.{key}" for key in getattr(one, "model_fields", {})}
    return found


@functools.cache
def defined(path: Path) -> set[str]:
    """Names that a Python file uses or defines, and its texts that are one word, or words with dots between."""
    found, left = set(), [compile(path.read_text(encoding="utf-8"), str(path), "exec")]
    while left:
        code = left.pop()
        found |= {*code.co_names, *code.co_varnames, *code.co_freevars}
        constants = [code.co_consts]
        for constant in constants:
            for one in constant:
                if isinstance(one, str) and len(one) < 60:
                    found |= {one, *one.split(".")}
                elif isinstance(one, tuple | frozenset):
                    constants.append(tuple(one))
                elif isinstance(one, CodeType):
                    left.append(one)
    return found


@functools.cache
def names() -> set[str]:
    """Every name of the sources, of their files, recipes and the zoo."""
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    files += [*(ROOT / "recipes").rglob("*.toml"), *(ROOT / "zoo").iterdir(), *ROOT.glob("*.toml")]
    found = {path.name for path in files} | {path.stem for path in files} | set(Settings.model_fields)
    for path in files:
        if path.suffix == ".py" and "tests" not in path.parts:
            found |= defined(path)
        elif path.suffix == ".toml":
            found |= set(re.findall(r"[\w.-]+", path.read_text(encoding="utf-8")))
    return found | defined(ROOT / "tests" / "conftest.py") | {*SOURCES, *get_command(app).commands}


# What a page names


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def inline(page: Path) -> list[str]:
    """What stands in backticks outside of blocks of code."""
    prose = re.sub(r"^(```.*?^```|(?: {4}|\t)[^\n]*$)", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def blocks(page: Path) -> list[str]:
    """Lines of the blocks of code, those that end in a backslash joined."""
    text = text_of(page).replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(
        r"^(?: {4}|\t)([^\n]*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return [line.strip() for block in fenced for line in block.splitlines()] + indented


def wrong_command(line: str) -> Iterator[str]:
    """What does not exist in a line that runs `spherectl`, `make` or `python`."""
    for part in re.split(r"\s(?:\||&&|;)\s", re.sub(r"\s+#.*", "", line)):
        try:
            words = shlex.split(part)
        except ValueError:
            words = part.split()
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            yield from unknown_variable(words.pop(0).partition("=")[0])
        if "spherectl" in words and (words[0] == "spherectl" or "-m" in words):
            yield from wrong_options(words[words.index("spherectl") + 1 :], part)
        elif words[:1] == ["make"]:
            yield from (word for word in words[1:] if "=" not in word and f"\n{word}:" not in makefile())
        elif words and Path(words[0]).name == "python" and len(words) > 2:
            module = words[2].replace(".", "/") if words[1] == "-m" else words[1]
            if module.split("/")[0] in SOURCES and not any(
                (ROOT / place).exists() for place in (module, f"{module}.py", f"{module}/__main__.py")
            ):
                yield part


def wrong_options(words: list[str], line: str) -> Iterator[str]:
    """Options, commands and keys of --set that do not exist."""
    command = ""
    while words and f"{command} {words[0]}".strip() in commands():
        command = f"{command} {words.pop(0)}".strip()
    if not command and words and not words[0].startswith(("-", "…", "...")):
        yield f"{line}: no command {words[0]}"
    for word, value in pairwise([*words, ""]):
        if word.startswith("--") and word.partition("=")[0] not in commands()[command]:
            yield f"{line}: {command} has no {word}"
        if word == "--set" and (key := value.partition("=")[0]) not in recipe_keys():
            yield f"{line}: no key {key}"


@functools.cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def unknown_variable(name: str) -> Iterator[str]:
    """A variable of ours that nothing reads."""
    if name.startswith("SPHERECTL_") and name[10:].lower() not in Settings.model_fields and name not in names():
        yield name


def unknown(code: str, page: Path) -> Iterator[str]:
    """What does not exist of one inline code."""
    first = code.split(maxsplit=1)[0]
    if code in ELSEWHERE or PLACEHOLDER.search(code):
        return
    if first == "pytest":
        yield from (word for word in code.split()[1:] if "/" in word and not (ROOT / word).exists())
    elif first in {"spherectl", "make", "python", "torchrun"} or ("=" in first and first.isupper()):
        yield from wrong_command(code)
    elif f"{first} {' '.join(code.split()[1:2])}" in commands() or (first in commands() and " " in code):
        yield from wrong_options(code.split(), code)
    elif code.startswith("--"):
        everywhere = set().union(*commands().values()) | names()
        yield from ([] if re.split(r"[ =]", code)[0] in everywhere else [code])
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", code) or (code.endswith(SUFFIXES) and " " not in code):
        places = (ROOT / code, page.parent / code, ROOT / "spherectl" / code)
        yield from ([] if any(place.exists() for place in places) or Path(code).name in names() else [code])
    elif (
        re.fullmatch(r"(\w+)\.(?!safetensors)\w+( = .*|=.*)?", code) and first.partition(".")[0] in Recipe.model_fields
    ):
        yield from ([] if re.split(r"[ =]", code)[0] in recipe_keys() else [code])
    elif re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+(=.*)?", code):
        yield from unknown_variable(code.partition("=")[0])
    elif re.fullmatch(r"[A-Za-z_][\w.-]*(\(.*\))?", code):
        parts = re.split(r"[.(]", code.partition("(")[0].removeprefix("spherectl."))
        yield from ([] if code in names() or all(part in names() for part in parts if part) else [code])


@each_page
def test_what_stands_in_backticks_exists(page: Path) -> None:
    wrong = {name for code in inline(page) for name in unknown(code, page)}
    assert sorted(wrong) == []


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    wrong = ["LossScale", "optim.speed", "--quickly", "sample --quickly", "spherectl draw", "make tea", "docs/no.md"]
    wrong += ["spherectl train debug --set optim.speed=1", "SPHERECTL_SPEED=1", "python -m tools.nothing"]
    right = ["generate", "optim.lr", "--steps", "sample --steps 2", "spherectl zoo ls", "make test", "docs/gpu.md"]
    page.write_text(" ".join(f"`{code}`" for code in [*wrong, *right]))
    assert [code for code in inline(page) if list(unknown(code, page))] == wrong


@each_page
def test_commands_in_blocks_exist(page: Path) -> None:
    assert [fault for line in blocks(page) for fault in wrong_command(line)] == []


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text_of(page)):
        path, _, anchor = "".join(target).partition("#")
        if re.match(r"https?:|mailto:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append("".join(target))
    assert wrong == []


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes anchors of them."""
    heads = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
