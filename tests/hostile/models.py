"""Model files, their headers and tensors; provenance; latents; feature networks; published checkpoints."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import Any

import torch
from hypothesis import strategies as st

from tests.hostile import bases
from tests.hostile.harness import Attempt, absent, fifo, folder, link
from tests.hostile.values import NUMBERS, TEXTS, damaged, damaged_text, json_texts, mutated, texts

M = "{work}/m.safetensors"
OUT = ("--out", "{work}/o.png")
SAMPLE = ("sample", "--count", "1", "--steps", "1", *OUT)

# Each reads the header of the model file M, which stands beside an image a.png.
READERS = [
    ("sample", "--model", M, "--count", "1", "--steps", "1", *OUT),
    ("sample", "--model", M, "--count", "2", *OUT),
    ("sample", "--model", M, "--class", "zzz", "--count", "1", *OUT),
    ("sample", "--model", M, "--class", "sneaker", "--count", "1", "--json", "--out", "{work}/o.npz"),
    ("sample", "--model", M, "--count", "1", "--weights", "raw", *OUT),
    ("edit", "a.png", "--reconstruct", "--model", M, *OUT),
    ("edit", "a.png", "--to-class", "bag", "--model", M, *OUT),
    ("encode", "a.png", "--model", M, "--out", "{work}/l.safetensors"),
    ("interpolate", "--seeds", "1,2", "--frames", "2", "--model", M, *OUT),
    ("restore", "a.png", "--task", "denoise", "--rounds", "1", "--model", M, *OUT),
    ("zoo", "add", M, "--index", "{work}/zoo/index.toml", "--name", "mine", "--licence", "MIT"),
    ("export", "--format", "published", "--model", M, "--out", "{work}/published"),
    ("train", "r.toml", "--from", M, "--data", str(bases.EXCERPT), "--dry-run"),
    ("plot", "samples", M, "--steps", "1", "--count", "1", *OUT),
]
readers = st.sampled_from(READERS)


def beside() -> dict[str, Any]:
    """What the readers need beside the model."""
    return {"a.png": bases.image(), "r.toml": recipe_text(bases.RECIPE)}


def recipe_text(table: dict[str, Any]) -> bytes:
    """A recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(table).encode()


def raw_safetensors(table: bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file of any table."""
    return struct.pack("<Q", len(table) if length is None else length) + table + data


def table_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Table and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@st.composite
def headers(draw: Any) -> Attempt:
    """A model file whose header says something else."""
    header = draw(json_texts(bases.header()))
    tensors = bases.tensors()
    table = json.dumps({"spherectl": header.decode("utf-8", "replace")}).encode()
    plain, data = table_of(bases.model({}, tensors))
    plain["__metadata__"] = json.loads(table)
    return Attempt(
        "model header", draw(readers), {"m.safetensors": raw_safetensors(json.dumps(plain).encode(), data), **beside()}
    )


@st.composite
def sizes(draw: Any) -> Attempt:
    """A header whose recipe has a number that does not fit the tensors."""
    header = json.loads(json.dumps(bases.header()))
    section = draw(st.sampled_from(["model", "model", "model", "sample", "run", "data", "noise", "loss"]))
    keys = [key for key, value in header["recipe"][section].items() if isinstance(value, int | float | str)]
    key = draw(st.sampled_from(keys))
    header["recipe"][section][key] = draw(st.sampled_from([number for number in NUMBERS if number != 10**400]))
    fits = section != "model" or key in {"attention", "mixer_norm_scale"}
    reads = draw(readers)
    size = not fits and reads[0] != "train" and abs(header["recipe"]["model"][key]) > 10**6
    files = {"m.safetensors": bases.model(header, bases.tensors()), **beside()}
    return Attempt("model sizes", reads, files, wrong=size)


DTYPES = [
    torch.complex64,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float64,
    torch.float16,
]
DTYPES += [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@st.composite
def tensors(draw: Any) -> Attempt:
    """Weights of other types, shapes and names, or that are no numbers."""
    found, reads = dict(bases.tensors()), draw(readers)
    way = draw(st.sampled_from(["type", "all", "nan", "inf", "shape", "name", "missing", "extra", "empty", "raw"]))
    name = draw(st.sampled_from(sorted(found)))
    tensor = found[name]
    if way == "type":
        found[name] = tensor.to(draw(st.sampled_from(DTYPES)))
    elif way == "all":
        dtype = draw(st.sampled_from(DTYPES))
        found = {key: value.to(dtype) for key, value in found.items()}
    elif way in {"nan", "inf"}:
        found[name] = tensor.clone()
        found[name].view(-1)[draw(st.sampled_from([0, -1]))] = float(way)
    elif way == "shape":
        found[name] = draw(
            st.sampled_from([tensor.reshape(-1), tensor[None], tensor[:1].clone(), torch.zeros(0), tensor.sum()])
        )
    elif way in {"name", "extra"}:
        moved = found.pop(name) if way == "name" else torch.zeros(1)
        found[draw(texts.filter(lambda text: text.isprintable() or "\ud800" not in text))] = moved
    elif way == "missing":
        del found[name]
    elif way == "empty":
        found = {}
    else:
        found |= {f"raw.{key}": value.clone() for key, value in found.items() if draw(st.integers(0, 9))}
    # What a command does not use it need not read: `sample --steps 1` the encoder, a dry run nothing but the header.
    harmless = name.startswith("encoder") and reads[0] not in {"edit", "encode", "restore"}
    harmless |= way == "raw" or (way in {"type", "all"})
    try:
        content = bases.model(bases.header(), found)
    except (UnicodeEncodeError, ValueError):
        content = bases.model(bases.header(), {})
    same = way == "shape" and tuple(found[name].shape) == tuple(tensor.shape)
    files = {"m.safetensors": content, **beside()}
    return Attempt("tensors", reads, files, wrong=not (harmless or same or reads[0] in {"train", "zoo"}))


@st.composite
def layouts(draw: Any) -> Attempt:
    """A safetensors file whose table of tensors says something else, or whose bytes were damaged."""
    if draw(st.booleans()):
        return Attempt("model bytes", draw(readers), {"m.safetensors": draw(damaged(bases.tiny(), 9000)), **beside()})
    table, data = table_of(bases.tiny())
    meta = table.pop("__metadata__")
    changed = draw(mutated(table, 2))
    if isinstance(changed, dict) and draw(st.integers(0, 9)):
        changed["__metadata__"] = meta
    length = draw(st.sampled_from([None, None, None, None, 0, 1, 2**31, 2**40, 2**63, 2**64 - 1]))
    text = json.dumps(changed).encode()
    if draw(st.integers(0, 9)) == 0:
        text = draw(damaged_text(text))
    return Attempt("model bytes", draw(readers), {"m.safetensors": raw_safetensors(text, data, length), **beside()})


SPECIAL = [
    fifo,
    folder,
    absent,
    link("/dev/zero"),
    link("/dev/null"),
    link("/dev/full"),
    link("x"),
    link("/proc/self/mem"),
    link("/dev/tty"),
]
SPECIAL += [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\0" * 64)]


@st.composite
def places(draw: Any) -> Attempt:
    """Pipes, devices, folders, nothing, in the place of a file that is read."""
    file = draw(st.sampled_from(SPECIAL))
    model = {"m.safetensors": bases.tiny()}
    argv, name = draw(
        st.sampled_from(
            [
                *((reader, "m.safetensors") for reader in READERS),
                (("edit", "a.png", "--reconstruct", "--model", M, *OUT), "a.png"),
                (("edit", "a.png", "b.png", "--harmonize", "--model", M, *OUT), "b.png"),
                (("edit", "a.png", "c.png", "--harmonize", "--mask", "b.png", "--model", M, *OUT), "b.png"),
                (("encode", "a.png", "b.png", "--model", M, "--out", "{work}/l.safetensors"), "b.png"),
                (("encode", "d", "--model", M, "--out", "{work}/l.safetensors"), "d/b.png"),
                (("interpolate", "a.png", "b.png", "--frames", "2", "--model", M, *OUT), "b.png"),
                (("restore", "b.png", "--task", "denoise", "--rounds", "1", "--model", M, *OUT), "b.png"),
                (
                    ("restore", "a.png", "--task", "inpaint", "--mask", "b.png", "--rounds", "1", "--model", M, *OUT),
                    "b.png",
                ),
                (
                    ("restore", "a.png", "--task", "deblur", "--kernel", "b.png", "--rounds", "1", "--model", M, *OUT),
                    "b.png",
                ),
                (("sample", "--like", "b.png", "--model", M, *OUT), "b.png"),
                (("sample", "--latents", "b.safetensors", "--model", M, *OUT), "b.safetensors"),
                (("sample", "--model", "p", *OUT), "p/cfg.json"),
                (("sample", "--model", "p", *OUT), "p/ckpt/ep0007.pth"),
                (("train", "b.toml", "--dry-run"), "b.toml"),
                (("recipes", "check", "b.toml"), "b.toml"),
                (("recipes", "show", "b.toml"), "b.toml"),
                (("recipes", "ls", "b.toml"), "b.toml"),
                (("train", "r.toml", "--data", "b.jsonl", "--set", "data.kind=jsonl", "--dry-run"), "b.jsonl"),
                (("train", "r.toml", "--data", "d", "--set", "data.kind=folder", "--dry-run"), "d/x/b.png"),
                (("train", "r.toml", "--data", "d", "--set", "data.kind=folder", "--dry-run"), "d/classes.txt"),
                (("train", "r.toml", "--data", "b.tar", "--set", "data.kind=shards", "--dry-run"), "b.tar"),
                (("plot", "training", "tiny", *OUT), "tiny/metrics.jsonl"),
                (("plot", "training", "tiny", *OUT), "tiny/recipe.toml"),
                (("sample", "--model", "tiny", *OUT), "tiny/model.safetensors"),
                (("sample", "--model", "tiny", *OUT), "tiny/recipe.toml"),
                (
                    (
                        "evaluate",
                        M,
                        "--count",
                        "64",
                        "--steps",
                        "1",
                        "--reference",
                        "b.npz",
                        "--data",
                        str(bases.EXCERPT),
                    ),
                    "b.npz",
                ),
            ]
        )
    )
    files: dict[str, Any] = {**model, **beside(), "b.png": bases.image(), "c.png": bases.image()}
    if name.startswith("p/"):
        files |= {f"p/{key}": value for key, value in bases.published().items()}
    if name.startswith("tiny/"):
        files |= {f"tiny/{key}": value for key, value in bases.run_files().items()}
    files[name] = file
    wrong = name not in {"d/x/b.png", "d/classes.txt", "d/b.png", "m.safetensors"} and file is not absent
    return Attempt("special files", argv, files, wrong=wrong and not name.startswith("tiny/") and argv[0] != "recipes")


@st.composite
def provenance(draw: Any) -> Attempt:
    """A PNG that says something of itself which no sample says."""
    base = bases.sampled("--count", draw(st.sampled_from(["1", "4"])))
    text = draw(json_texts(base)).decode("utf-8", "replace")
    files = {"m.safetensors": bases.tiny(), "like.png": bases.png_with(text)}
    argv = draw(st.sampled_from([("--model", M), ("--model", M, "--json"), ()]))
    return Attempt("provenance", ("sample", "--like", "like.png", *argv, *OUT), files)


@st.composite
def latents(draw: Any) -> Attempt:
    """A file of latents, changed: its header, its tensors, its bytes."""
    header, found = bases.latents()
    found = dict(found)
    way = draw(st.sampled_from(["header", "header", "tensor", "bytes"]))
    if way == "header":
        content = bases.model(draw(mutated(header)), found)
    elif way == "bytes":
        content = draw(damaged(bases.model(header, found), 600))
    else:
        name = draw(st.sampled_from(sorted(found)))
        tensor = found[name]
        found[name] = draw(
            st.sampled_from(
                [
                    *(tensor.to(dtype) for dtype in DTYPES),
                    *(
                        tensor[None],
                        tensor.reshape(-1),
                        tensor[:0],
                        tensor * 0,
                        tensor.float() * float("nan"),
                        tensor.float() * 1e30,
                    ),
                    *(tensor - 5, tensor + 10**9, tensor.repeat(2, *(1,) * (tensor.ndim - 1))),
                ]
            )
        )
        content = bases.model(header, found)
    return Attempt(
        "latents",
        ("sample", "--latents", "l.safetensors", "--model", M, *OUT),
        {"l.safetensors": content, "m.safetensors": bases.tiny()},
    )


@st.composite
def features(draw: Any) -> Attempt:
    """A feature network's file, changed: header, tensors, bytes."""
    content = (bases.ROOT / "zoo" / "fashion-scorer.safetensors").read_bytes()
    table, data = table_of(content)
    way = draw(st.sampled_from(["header", "header", "header", "table", "bytes"]))
    if way == "header":
        header = json.loads(table["__metadata__"]["spherectl"])
        table["__metadata__"] = {"spherectl": draw(json_texts(header)).decode("utf-8", "replace")}
        content = raw_safetensors(json.dumps(table).encode(), data)
    elif way == "table":
        meta = table.pop("__metadata__")
        changed = draw(mutated(table))
        content = raw_safetensors(
            json.dumps(changed | {"__metadata__": meta} if isinstance(changed, dict) else changed).encode(), data
        )
    else:
        content = draw(damaged(content, 3000))
    argv = draw(
        st.sampled_from(
            [
                (
                    "evaluate",
                    M,
                    "--count",
                    "16",
                    "--steps",
                    "1",
                    "--features",
                    "f.safetensors",
                    "--reference",
                    "test",
                    "--data",
                    str(bases.EXCERPT),
                ),
                (
                    "train",
                    "r.toml",
                    "--data",
                    str(bases.EXCERPT),
                    "--set",
                    "loss.perceptual=features:{work}/f.safetensors",
                    "--set",
                    "loss.rec_perceptual=1.0",
                    "--dry-run",
                ),
                ("features", "check", "f.safetensors", "--data", str(bases.EXCERPT)),
            ]
        )
    )
    return Attempt("feature network", argv, {"f.safetensors": content, "m.safetensors": bases.tiny(), **beside()})


# Published checkpoints

OPCODES = b"".join(opcode.code.encode("latin-1") for opcode in __import__("pickletools").opcodes)


@st.composite
def pickles(draw: Any, base: bytes) -> bytes:
    """A pickle with opcodes changed, or made of opcodes alone."""
    way = draw(st.sampled_from(["opcodes", "changed", "damaged", "named", "sized"]))
    if way == "opcodes":
        picked = draw(st.lists(st.sampled_from(OPCODES), max_size=12))
        return b"\x80\x02" + b"".join(bytes([code]) + draw(st.binary(max_size=5)) for code in picked) + b"."
    if way == "named":
        module = draw(
            st.sampled_from(
                [
                    b"os\nsystem",
                    b"builtins\neval",
                    b"torch\nload",
                    b"collections\nOrderedDict",
                    b"torch._utils\n_rebuild_tensor_v2",
                    b"\x1b[31m\nx",
                ]
            )
        )
        return b"\x80\x02c" + module + b"\n(S'touch pwned'\ntR."
    if way == "sized":
        code = draw(st.sampled_from([b"\x96", b"\x8e", b"\x8d", b"B", b"X", b"\x8b", b"\x95", b"T", b"j", b"r"]))
        return (
            b"\x80\x05"
            + code
            + struct.pack("<Q", draw(st.sampled_from([8 << 30, 2**31 - 1, 2**63 - 1, 2**64 - 1])))
            + b"."
        )
    if way == "changed" and base:
        out = bytearray(base)
        for _ in range(draw(st.integers(1, 4))):
            out[draw(st.integers(0, len(out) - 1))] = draw(st.sampled_from(OPCODES))
        return bytes(out)
    return draw(damaged(base))


@st.composite
def checkpoints(draw: Any) -> Attempt:
    """A folder as the authors publish it, changed: cfg.json, the zip, the pickle in it."""
    files = dict(bases.published())
    way = draw(st.sampled_from(["cfg", "cfg", "cfg", "pickle", "pickle", "bytes", "bare", "names"]))
    name = "ckpt/ep0007.pth"
    if way == "cfg":
        files["cfg.json"] = draw(json_texts(json.loads(files["cfg.json"])))
    elif way == "bytes":
        files[name] = draw(damaged(files[name], 3000))
    elif way == "bare":
        files[name] = draw(pickles(pickle.dumps({"model": [1.0, {"a": "b"}]})))
    elif way == "names":
        files[
            draw(
                st.sampled_from(
                    [
                        "ckpt/ep.pth",
                        "ckpt/ep99999999999999999999.pth",
                        "ckpt/ep-1.pth",
                        "ckpt/\x1b[31m.pth",
                        "ckpt/ep0008.pth",
                    ]
                )
            )
        ] = b""
    else:
        written = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(files[name])) as old,
            zipfile.ZipFile(written, "w", draw(st.sampled_from([0, 8]))) as new,
        ):
            for info in old.infolist():
                content = old.read(info)
                new.writestr(info.filename, draw(pickles(content)) if info.filename.endswith("data.pkl") else content)
        files[name] = written.getvalue()
    argv = draw(
        st.sampled_from(
            [
                ("sample", "--model", "p", "--count", "1", "--steps", "1", *OUT),
                ("zoo", "add", "p", "--index", "zoo/index.toml", "--licence", "MIT"),
            ]
        )
    )
    return Attempt("published folder", argv, {f"p/{key}": value for key, value in files.items()})


def pickled_bomb(size: int) -> bytes:
    """A pickle that asks for a bytearray of `size` bytes."""
    return b"\x80\x05\x96" + struct.pack("<Q", size) + b"."


assert TEXTS
KINDS = {
    "model header": headers(),
    "model sizes": sizes(),
    "tensors": tensors(),
    "model bytes": layouts(),
    "special files": places(),
    "provenance": provenance(),
    "latents": latents(),
    "feature network": features(),
    "published folder": checkpoints(),
}
