"""Texts: lists, zoo indexes, recipes and changes of them, settings, class lists, the files of a run."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.hostile import bases
from tests.hostile.harness import Attempt, File
from tests.hostile.models import OUT, M, recipe_text
from tests.hostile.values import NUMBERS, damaged, damaged_text, mutated, texts, values

EXCERPT = str(bases.EXCERPT)


def encoded(text: str) -> bytes:
    """A text as bytes, whatever is in it."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def toml_texts(draw: Any, base: Any, most: int = 2) -> bytes:
    """A TOML document, changed; now and then its text is damaged as well."""
    tree = draw(mutated(base, most))
    text = recipe_text(plain(tree) if isinstance(tree, dict) else {"a": plain(tree)})
    return draw(damaged_text(text)) if draw(st.integers(0, 6)) == 0 else text


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

PLANS = [
    ("train", "r.toml", "--data", EXCERPT, "--dry-run"),
    ("recipes", "check", "r.toml"),
    ("recipes", "show", "r.toml"),
]
PLANS += [("recipes", "ls", "."), ("train", "r.toml", "--data", EXCERPT, "--smoke", "--dry-run")]
KEYS = [f"{table}.{key}" for table, keys in bases.RECIPE.items() if isinstance(keys, dict) for key in keys]
KEYS += [
    "name",
    "summary",
    "model.token_channels",
    "model.in_context_tokens",
    "run.seed",
    "run.activation_checkpointing",
]
KEYS += [
    "optim.betas",
    "loss.schedule",
    "loss.kl",
    "data.root",
    "data.classes",
    "run.parallel",
    "a.b",
    "model",
    "model.a.b.c",
    "",
    ".",
    "\x1b[31m",
]


@st.composite
def recipes(draw: Any) -> Attempt:
    """A recipe with any value at any key."""
    text = draw(toml_texts(bases.RECIPE))
    return Attempt("recipe", draw(st.sampled_from(PLANS)), {"r.toml": text})


@st.composite
def changes(draw: Any) -> Attempt:
    """--set with hostile keys and values."""
    words: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(KEYS))
        value = draw(st.one_of(st.sampled_from(NUMBERS).map(shown), texts, values.map(as_json)))
        words += ["--set", draw(st.sampled_from([f"{key}={value}"] * 9 + [key, f"={value}"]))]
    argv = draw(
        st.sampled_from(
            [
                ("train", "r.toml", "--data", EXCERPT, "--dry-run"),
                ("recipes", "check", "r.toml"),
                ("recipes", "check", "debug"),
            ]
        )
    )
    return Attempt("--set", words_of(*argv, *words), {"r.toml": recipe_text(bases.RECIPE)})


def shown(number: Any) -> str:
    """A number as text, however many digits it has."""
    return f"1{'0' * 400}" if isinstance(number, int) and abs(number) > 10**100 else str(number)


def as_json(value: Any) -> str:
    """A value as JSON."""
    return json.dumps(value)


def words_of(*words: str) -> tuple[str, ...]:
    """Words as a system passes them to a program: no null characters, halves of surrogates only where bytes stood."""
    return tuple(
        word.replace("\x00", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for word in words
    )


# Settings

NAMES = ("cache", "data", "runs", "device", "model", "zoo_index", "offline", "kernels")
LOOKS = [
    ("doctor",),
    ("doctor", "--json"),
    ("zoo", "ls"),
    ("sample", "--count", "1", *OUT),
    ("recipes", "ls"),
    ("zoo", "verify"),
]


@st.composite
def settings(draw: Any) -> Attempt:
    """Hostile variables and a hostile config.toml."""
    look, env, files = draw(st.sampled_from(LOOKS)), {}, {}
    if draw(st.booleans()):
        name = draw(st.sampled_from([*NAMES, "config", "a", "cach"]))
        value = draw(st.one_of(texts, st.sampled_from(NUMBERS).map(shown)))[:50_000]
        env[f"SPHERECTL_{name.upper()}"] = words_of(value)[0]
    else:
        base = {
            "cache": "c",
            "data": "d",
            "runs": "r",
            "device": "cpu",
            "model": "fashion-mnist",
            "zoo_index": ["z.toml"],
            "offline": True,
            "kernels": False,
        }
        files["config.toml"] = draw(toml_texts(base))
        env["SPHERECTL_CONFIG"] = "{work}/config.toml"
    if look[0] == "sample":
        look = (*look, "--model", M)
        files["m.safetensors"] = bases.tiny()
    return Attempt("settings", look, files, env)


# Lists and class names

LINES = [
    {"class_id": 0, "class_name": "cat", "image_path": "0.png", "is_absolute_path": False},
    {"class_id": 1, "class_name": "dog", "image_path": "1.png", "is_absolute_path": False},
    {"class_id": 1, "class_name": "dog", "image_path": "0.png"},
    {"class_id": 0, "class_name": "cat", "image_path": "1.png"},
] * 2


def data_recipe(kind: str, **model: Any) -> dict[str, Any]:
    """The tiny recipe on data of another kind."""
    return {
        **bases.RECIPE,
        "data": {"kind": kind, "fit": "crop", "workers": 0},
        "model": {**bases.RECIPE["model"], **model},
    }


@st.composite
def lists(draw: Any) -> Attempt:
    """A list of images, some lines of which are hostile."""
    lines = draw(mutated(LINES, 3))
    rows = lines if isinstance(lines, list) else [lines]
    text = b"\n".join(json.dumps(line).encode() for line in rows[:4000]) + b"\n"
    if draw(st.integers(0, 5)) == 0:
        text = draw(damaged_text(text))
    files: dict[str, File] = {
        "l.jsonl": text,
        "0.png": bases.image(),
        "1.png": bases.image(),
        "r.toml": recipe_text(data_recipe("jsonl", num_classes=2)),
    }
    how = draw(st.sampled_from([("--dry-run",), ("--run-dir", "run")]))
    return Attempt("lists", ("train", "r.toml", "--data", "l.jsonl", *how), files)


@st.composite
def class_lists(draw: Any) -> Attempt:
    """classes.txt and class_names.json beside shards, names of class folders."""
    members = [(f"{number}.png", bases.image(), {}) for number in range(8)] + [
        (f"{number}.cls", str(number % 2).encode(), {}) for number in range(8)
    ]
    members.sort(key=lambda member: member[0])
    files: dict[str, File] = {"d/0.tar": bases.tar_of(members)}
    way = draw(st.sampled_from(["json", "txt", "folders"]))
    if way == "json":
        text = json.dumps(draw(mutated(["cat", "dog"]))).encode()
        files["d/class_names.json"] = draw(damaged_text(text)) if draw(st.integers(0, 5)) == 0 else text
    elif way == "txt":
        text = encoded("\n".join(draw(st.lists(texts, min_size=1, max_size=4))))
        files["d/classes.txt"] = draw(damaged_text(text)) if draw(st.integers(0, 5)) == 0 else text
    else:
        names = draw(st.lists(texts, min_size=2, max_size=3))
        kept = {words_of(name)[0].replace("/", "_")[:60] for name in names} - {"", ".", ".."}
        files = {f"d/{name}/{number}.png": bases.image() for name in kept for number in range(4)}
        files["d/x/0.png"] = bases.image()
    kind = "folder" if way == "folders" else "shards"
    files["r.toml"] = recipe_text(data_recipe(kind, num_classes=draw(st.sampled_from([0, 1, 2, 3]))))
    how = draw(st.sampled_from([("--dry-run",), ("--run-dir", "run")]))
    return Attempt("class names", ("train", "r.toml", "--data", "d", *how), files)


@st.composite
def classes(draw: Any) -> Attempt:
    """--class with hostile words."""
    word = draw(st.one_of(texts, st.sampled_from(NUMBERS).map(shown)))
    word = draw(st.sampled_from([word, f"{word},{word}", f"0-{word}", f"{word}-3", f"bag,{word}"]))
    argv = draw(
        st.sampled_from(
            [
                ("sample", "--count", "2", "--class"),
                ("edit", "a.png", "--to-class"),
                ("interpolate", "--seeds", "1,2", "--frames", "2", "--class"),
                ("restore", "a.png", "--task", "denoise", "--rounds", "1", "--class"),
                ("encode", "a.png", "--class"),
                ("interpolate", "--frames", "2", "--seeds"),
            ]
        )
    )
    out = ("--out", "{work}/l.safetensors") if argv[0] == "encode" else OUT
    return Attempt(
        "--class", words_of(*argv, word, "--model", M, *out), {"m.safetensors": bases.tiny(), "a.png": bases.image()}
    )


# Zoo indexes

INDEX = {
    "entry": [
        {
            "name": "mine",
            "kind": "model",
            "file": "m.safetensors",
            "sha256": "0" * 64,
            "bytes": 694088,
            "licence": "MIT",
            "data_licence": "MIT",
            "summary": "Mine.",
            "channels": "grey",
            "image_size": 32,
            "classes": 10,
        },
        {
            "name": "far",
            "kind": "model",
            "urls": ["https://127.0.0.1:9/a"],
            "sha256": "0" * 64,
            "bytes": 10,
            "licence": "MIT",
            "data_licence": "MIT",
            "summary": "Far.",
        },
        {
            "name": "page",
            "kind": "model",
            "page": "https://127.0.0.1:9/",
            "licence": "MIT",
            "data_licence": "MIT",
            "summary": "A page.",
        },
    ]
}
ZOO = [
    ("zoo", "ls"),
    ("zoo", "ls", "--json"),
    ("zoo", "show", "mine"),
    ("zoo", "show", "far", "--json"),
    ("zoo", "fetch", "far"),
    ("zoo", "fetch", "mine"),
]
ZOO += [
    ("zoo", "verify"),
    ("zoo", "rm", "mine"),
    ("zoo", "rm", "far"),
    ("sample", "--model", "mine", "--count", "1", *OUT),
    ("zoo", "add", M, "--index", "z/index.toml", "--name", "new"),
]


@st.composite
def indexes(draw: Any) -> Attempt:
    """An index of a zoo with any value at any key."""
    files: dict[str, File] = {
        "z/index.toml": draw(toml_texts(INDEX, 2)),
        "m.safetensors": bases.tiny(),
        "z/m.safetensors": bases.tiny(),
    }
    if draw(st.integers(0, 3)) == 0:
        files["z/mine.md"] = draw(st.one_of(texts.map(encoded), st.binary(max_size=50)))
    return Attempt("zoo index", draw(st.sampled_from(ZOO)), files, {"SPHERECTL_ZOO_INDEX": "{work}/z/index.toml"})


# Runs

RUN_USES = [
    ("plot", "training", "tiny", *OUT),
    ("plot", "training", "tiny", "--x", "hours", "--out", "{work}/o.svg"),
    ("sample", "--model", "tiny", "--count", "1", *OUT),
    ("sample", "--model", "tiny", "--weights", "raw", "--count", "1", *OUT),
    ("train", "{work}/r.toml", "--data", EXCERPT, "--run-dir", "tiny"),
    ("train", "{work}/r.toml", "--data", EXCERPT, "--run-dir", "tiny", "--set", "run.length_images=24"),
    ("export", "--format", "published", "--model", "tiny", "--out", "{work}/published"),
]


@st.composite
def runs(draw: Any) -> Attempt:
    """A run folder, one of whose files says something else."""
    files: dict[str, File] = {f"tiny/{name}": content for name, content in bases.run_files().items()}
    name = draw(
        st.sampled_from(
            [
                "metrics.jsonl",
                "metrics.jsonl",
                "recipe.toml",
                "run.json",
                "checkpoints/000000000016/checkpoint.json",
                "other",
            ]
        )
    )
    if name == "other":
        name = draw(
            st.sampled_from(
                [key for key in bases.run_files() if key.endswith(("safetensors", "png")) or "events" in key]
            )
        )
        files[f"tiny/{name}"] = draw(damaged(bases.run_files()[name], 3000))
    else:
        content = bases.run_files()[name]
        if name == "recipe.toml":
            import tomllib

            files[f"tiny/{name}"] = draw(toml_texts(tomllib.loads(content.decode())))
        elif name == "metrics.jsonl":
            rows = draw(mutated([json.loads(line) for line in content.splitlines()], 3))
            text = (
                b"\n".join(json.dumps(row).encode() for row in (rows if isinstance(rows, list) else [rows])[:4000])
                + b"\n"
            )
            files[f"tiny/{name}"] = draw(damaged_text(text)) if draw(st.integers(0, 5)) == 0 else text
        else:
            text = json.dumps(draw(mutated(json.loads(content)))).encode()
            files[f"tiny/{name}"] = draw(damaged_text(text)) if draw(st.integers(0, 5)) == 0 else text
    files["r.toml"] = recipe_text(bases.RECIPE)
    # Training goes on in its folder, so what it leaves there is no fault of its own.
    return Attempt("run folder", draw(st.sampled_from(RUN_USES)), files)


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
