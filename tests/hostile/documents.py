"""Texts: lists, zoo indexes, recipes and changes of them, settings, class lists, the files of a run."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import strategies as st

from tests.hostile import bases
from tests.hostile.harness import Attempt, File
from tests.hostile.models import recipe_text
from tests.hostile.values import (
    NUMBERS,
    command_lines,
    damaged,
    json_lines,
    json_texts,
    mutated,
    now_and_then_damaged,
    one_in,
    pick,
    texts,
    values,
)

TRAININGS = [("--dry-run",), ("--run-dir", "run")]


def encoded(text: str) -> bytes:
    """A text as bytes, whatever is in it."""
    return text.encode("utf-8", "surrogatepass")


def as_word(number: Any) -> str:
    """A number as text, however many digits it has."""
    return f"1{'0' * 400}" if isinstance(number, int) and abs(number) > 10**100 else str(number)


def words_of(*words: str) -> tuple[str, ...]:
    """Words as a system passes them to a program: no null characters, halves of surrogates only where bytes stood."""
    return tuple(
        word.replace("\x00", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for word in words
    )


@st.composite
def toml_texts(draw: Any, base: Any, most: int = 2) -> bytes:
    """A TOML document, changed; now and then its text is damaged as well."""
    tree = plain(draw(mutated(base, most)))
    return draw(now_and_then_damaged(recipe_text(tree if isinstance(tree, dict) else {"a": tree})))


def plain(tree: Any) -> Any:
    """What TOML can hold: no null, no halves of surrogates."""
    if tree is None:
        return ""
    if isinstance(tree, dict):
        return {plain(key): plain(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list):
        return [plain(value) for value in tree if value is not None]
    if isinstance(tree, str):
        return tree.encode("utf-8", "replace").decode()
    if isinstance(tree, int) and not isinstance(tree, bool) and abs(tree) > 10**300:
        return 10**300
    return tree


# Recipes

PLANS = command_lines("""
train r.toml --data DATA --dry-run
train r.toml --data DATA --smoke --dry-run
recipes check r.toml
recipes show r.toml
recipes ls .
""")
CHECKS = command_lines("""
train r.toml --data DATA --dry-run
recipes check r.toml
recipes check debug
""")
KEYS = [f"{table}.{key}" for table, keys in bases.RECIPE.items() if isinstance(keys, dict) for key in keys]
KEYS += [
    "name",
    "summary",
    "model.token_channels",
    "model.in_context_tokens",
    "run.seed",
    "run.activation_checkpointing",
]
KEYS += ["optim.betas", "loss.schedule", "loss.kl", "data.root", "data.classes", "run.parallel"]
KEYS += ["a.b", "model", "model.a.b.c", "", ".", "\x1b[31m"]


@st.composite
def recipes(draw: Any) -> Attempt:
    """A recipe with any value at any key."""
    return Attempt("recipe", pick(draw, *PLANS), {"r.toml": draw(toml_texts(bases.RECIPE))})


@st.composite
def changes(draw: Any) -> Attempt:
    """--set with hostile keys and values."""
    words: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        key = pick(draw, *KEYS)
        value = draw(st.one_of(st.sampled_from(NUMBERS).map(as_word), texts, values.map(json.dumps)))
        words += ["--set", pick(draw, *[f"{key}={value}"] * 9, key, f"={value}")]
    return Attempt("--set", words_of(*pick(draw, *CHECKS), *words), {"r.toml": recipe_text(bases.RECIPE)})


# Settings

SETTINGS = {"cache": "c", "data": "d", "runs": "r", "device": "cpu", "model": "fashion-mnist", "zoo_index": ["z.toml"]}
SETTINGS |= {"offline": True, "kernels": False}
LOOKS = command_lines("""
doctor
doctor --json
zoo ls
zoo verify
recipes ls
sample --count 1 OUT --model M
""")


@st.composite
def settings(draw: Any) -> Attempt:
    """Hostile variables and a hostile config.toml."""
    env: dict[str, str] = {}
    files: dict[str, File] = {"m.safetensors": bases.tiny()}
    if draw(st.booleans()):
        name = pick(draw, *SETTINGS, "config", "a", "cach")
        value = draw(st.one_of(texts, st.sampled_from(NUMBERS).map(as_word)))[:50_000]
        env[f"SPHERECTL_{name.upper()}"] = words_of(value)[0]
    else:
        files["config.toml"] = draw(toml_texts(SETTINGS))
        env["SPHERECTL_CONFIG"] = "{work}/config.toml"
    return Attempt("settings", pick(draw, *LOOKS), files, env)


# Lists and class names

LISTED = [
    {"class_id": 0, "class_name": "cat", "image_path": "0.png", "is_absolute_path": False},
    {"class_id": 1, "class_name": "dog", "image_path": "1.png", "is_absolute_path": False},
    {"class_id": 1, "class_name": "dog", "image_path": "0.png"},
    {"class_id": 0, "class_name": "cat", "image_path": "1.png"},
] * 2


def data_recipe(kind: str, **model: Any) -> dict[str, Any]:
    """The tiny recipe on data of another kind."""
    data = {"kind": kind, "fit": "crop", "workers": 0}
    return {**bases.RECIPE, "data": data, "model": {**bases.RECIPE["model"], **model}}


@st.composite
def lists(draw: Any) -> Attempt:
    """A list of images, some lines of which are hostile."""
    files: dict[str, File] = {f"{number}.png": bases.image() for number in range(2)}
    files |= {"l.jsonl": draw(json_lines(LISTED)), "r.toml": recipe_text(data_recipe("jsonl", num_classes=2))}
    return Attempt("lists", ("train", "r.toml", "--data", "l.jsonl", *pick(draw, *TRAININGS)), files)


@st.composite
def class_lists(draw: Any) -> Attempt:
    """classes.txt and class_names.json beside shards, names of class folders."""
    members: list[tuple[str, bytes, dict[str, Any]]] = []
    for number in range(8):
        members += [(f"{number}.cls", str(number % 2).encode(), {}), (f"{number}.png", bases.image(), {})]
    files: dict[str, File] = {"d/0.tar": bases.tar_of(members)}
    way = pick(draw, "json", "txt", "folders")
    if way == "json":
        files["d/class_names.json"] = draw(json_texts(["cat", "dog"]))
    elif way == "txt":
        text = encoded("\n".join(draw(st.lists(texts, min_size=1, max_size=4))))
        files["d/classes.txt"] = draw(now_and_then_damaged(text))
    else:
        names = draw(st.lists(texts, min_size=2, max_size=3))
        kept = {words_of(name)[0].replace("/", "_")[:60] for name in names} - {"", ".", ".."} | {"x"}
        files = {f"d/{name}/{number}.png": bases.image() for name in kept for number in range(4)}
    kind = "folder" if way == "folders" else "shards"
    files["r.toml"] = recipe_text(data_recipe(kind, num_classes=pick(draw, 0, 1, 2, 3)))
    return Attempt("class names", ("train", "r.toml", "--data", "d", *pick(draw, *TRAININGS)), files)


CLASSED = command_lines("""
sample --model M --count 2 OUT --class
edit a.png --model M OUT --to-class
interpolate --seeds 1,2 --frames 2 --model M OUT --class
interpolate --frames 2 --model M OUT --seeds
restore a.png --task denoise --rounds 1 --model M OUT --class
encode a.png --model M --out l.safetensors --class
""")


@st.composite
def classes(draw: Any) -> Attempt:
    """--class with hostile words."""
    word = draw(st.one_of(texts, st.sampled_from(NUMBERS).map(as_word)))
    word = pick(draw, word, f"{word},{word}", f"0-{word}", f"{word}-3", f"bag,{word}")
    files: dict[str, File] = {"m.safetensors": bases.tiny(), "a.png": bases.image()}
    return Attempt("--class", words_of(*pick(draw, *CLASSED), word), files)


# Zoo indexes

ENTRY = {"kind": "model", "licence": "MIT", "data_licence": "MIT", "summary": "Of a test."}
HERE = {
    "file": "m.safetensors",
    "sha256": "0" * 64,
    "bytes": 694088,
    "channels": "grey",
    "image_size": 32,
    "classes": 10,
}
INDEX = {
    "entry": [
        {"name": "mine", **ENTRY, **HERE},
        {"name": "far", **ENTRY, "urls": ["https://127.0.0.1:9/a"], "sha256": "0" * 64, "bytes": 10},
        {"name": "page", **ENTRY, "page": "https://127.0.0.1:9/"},
    ]
}
ZOO = command_lines("""
zoo ls
zoo ls --json
zoo show mine
zoo show far --json
zoo fetch far
zoo fetch mine
zoo verify
zoo rm mine
zoo rm far
zoo add M --index z/index.toml --name new
sample --model mine --count 1 OUT
""")


@st.composite
def indexes(draw: Any) -> Attempt:
    """An index of a zoo with any value at any key."""
    files: dict[str, File] = {"m.safetensors": bases.tiny(), "z/m.safetensors": bases.tiny()}
    files["z/index.toml"] = draw(toml_texts(INDEX))
    if one_in(draw, 4):
        files["z/mine.md"] = draw(st.one_of(texts.map(encoded), st.binary(max_size=50)))
    return Attempt("zoo index", pick(draw, *ZOO), files, {"SPHERECTL_ZOO_INDEX": "{work}/z/index.toml"})


# Runs

RUN_USES = command_lines("""
plot training tiny OUT
plot training tiny --x hours --out o.svg
sample --model tiny --count 1 OUT
sample --model tiny --weights raw --count 1 OUT
train r.toml --data DATA --run-dir tiny
train r.toml --data DATA --run-dir tiny --set run.length_images=24
export --format published --model tiny --out published
""")


@st.composite
def runs(draw: Any) -> Attempt:
    """A run folder, one of whose files says something else."""
    run = bases.run_files()
    others = [key for key in run if key.endswith(("safetensors", "png")) or "events" in key]
    checkpoint = "checkpoints/000000000016/checkpoint.json"
    name = pick(draw, "metrics.jsonl", "metrics.jsonl", "recipe.toml", "run.json", checkpoint, "other")
    if name == "other":
        name = pick(draw, *others)
        changed = draw(damaged(run[name], 3000))
    elif name == "recipe.toml":
        changed = draw(toml_texts(tomllib.loads(run[name].decode())))
    elif name == "metrics.jsonl":
        changed = draw(json_lines([json.loads(line) for line in run[name].splitlines()]))
    else:
        changed = draw(json_texts(json.loads(run[name])))
    files: dict[str, File] = {f"tiny/{key}": content for key, content in (run | {name: changed}).items()}
    files["r.toml"] = recipe_text(bases.RECIPE)
    # Training goes on in its folder, so what it leaves there is no fault of its own.
    return Attempt("run folder", pick(draw, *RUN_USES), files)


KINDS = {
    "recipe": recipes(),
    "--set": changes(),
    "settings": settings(),
    "lists": lists(),
    "class names": class_lists(),
    "--class": classes(),
    "zoo index": indexes(),
    "run folder": runs(),
}
