"""Model files, their headers and tensors; provenance; latents; feature networks; published checkpoints."""

from __future__ import annotations

import copy
import io
import json
import pickle
import pickletools
import struct
import zipfile
from typing import Any

import torch
from hypothesis import strategies as st

from tests.hostile import bases
from tests.hostile.harness import Attempt, File, absent, fifo, folder, link
from tests.hostile.values import NUMBERS, command_lines, damaged, json_texts, mutated, now_and_then_damaged, pick, texts

# Each reads the header of the model file M, which stands beside an image a.png.
READERS = command_lines("""
sample --model M --count 1 --steps 1 OUT
sample --model M --count 2 OUT
sample --model M --class zzz --count 1 OUT
sample --model M --class sneaker --count 1 --json --out o.npz
sample --model M --count 1 --weights raw OUT
edit a.png --reconstruct --model M OUT
edit a.png --to-class bag --model M OUT
encode a.png --model M --out l.safetensors
interpolate --seeds 1,2 --frames 2 --model M OUT
restore a.png --task denoise --rounds 1 --model M OUT
zoo add M --index zoo/index.toml --name mine --licence MIT
export --format published --model M --out published
train r.toml --from M --data DATA --dry-run
plot samples M --steps 1 --count 1 OUT
""")
readers = st.sampled_from(READERS)


def recipe_text(table: dict[str, Any]) -> bytes:
    """A recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(table).encode()


def beside(model: bytes) -> dict[str, File]:
    """The model file, and what its readers need besides."""
    return {"m.safetensors": model, "a.png": bases.image(), "r.toml": recipe_text(bases.RECIPE)}


def raw_safetensors(table: Any, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file of any table."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def table_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Table and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def saying(content: bytes, header: bytes) -> bytes:
    """A file of ours with another header."""
    table, data = table_of(content)
    table["__metadata__"] = {"spherectl": header.decode("utf-8", "replace")}
    return raw_safetensors(table, data)


def tabled(content: bytes, table: Any) -> bytes:
    """A file of ours with another table of tensors, and the header it had."""
    old, data = table_of(content)
    return raw_safetensors(table | {"__metadata__": old["__metadata__"]} if isinstance(table, dict) else table, data)


@st.composite
def headers(draw: Any) -> Attempt:
    """A model file whose header says something else."""
    model = saying(bases.tiny(), draw(json_texts(bases.header())))
    return Attempt("model header", draw(readers), beside(model))


@st.composite
def sizes(draw: Any) -> Attempt:
    """A header whose recipe has a number that does not fit the tensors."""
    header = copy.deepcopy(bases.header())
    section = pick(draw, "model", "model", "model", "sample", "run", "data", "noise", "loss")
    table = header["recipe"][section]
    key = pick(draw, *(key for key, value in table.items() if isinstance(value, int | float | str)))
    table[key] = pick(draw, *(number for number in NUMBERS if number != 10**400))
    fits = section != "model" or key in {"attention", "mixer_norm_scale"}
    reads = draw(readers)
    wrong = not fits and reads[0] != "train" and abs(table[key]) > 10**6
    return Attempt("model sizes", reads, beside(bases.model(header, bases.tensors())), wrong=wrong)


DTYPES = [torch.complex64, torch.int64, torch.int8, torch.uint8, torch.bool, torch.float64, torch.float16]
DTYPES += [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@st.composite
def tensors(draw: Any) -> Attempt:
    """Weights of other types, shapes and names, or that are no numbers."""
    found, reads = dict(bases.tensors()), draw(readers)
    way = pick(draw, "type", "all", "nan", "inf", "shape", "name", "missing", "extra", "empty", "raw")
    name = pick(draw, *sorted(found))
    tensor = found[name]
    if way == "type":
        found[name] = tensor.to(pick(draw, *DTYPES))
    elif way == "all":
        dtype = pick(draw, *DTYPES)
        found = {key: value.to(dtype) for key, value in found.items()}
    elif way in {"nan", "inf"}:
        found[name] = tensor.clone()
        found[name].view(-1)[pick(draw, 0, -1)] = float(way)
    elif way == "shape":
        shapes = (tensor.reshape(-1), tensor[None], tensor[:1].clone(), torch.zeros(0), tensor.sum())
        found[name] = pick(draw, *shapes)
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
    harmless |= way in {"raw", "type", "all"} or reads[0] in {"train", "zoo"}
    harmless |= way == "shape" and found[name].shape == tensor.shape
    try:
        content = bases.model(bases.header(), found)
    except (UnicodeEncodeError, ValueError):
        content = bases.model(bases.header(), {})
    return Attempt("tensors", reads, beside(content), wrong=not harmless)


@st.composite
def layouts(draw: Any) -> Attempt:
    """A safetensors file whose table of tensors says something else, or whose bytes were damaged."""
    if draw(st.booleans()):
        return Attempt("model bytes", draw(readers), beside(draw(damaged(bases.tiny(), 9000))))
    table, data = table_of(bases.tiny())
    meta = table.pop("__metadata__")
    changed = draw(mutated(table, 2))
    if isinstance(changed, dict) and draw(st.integers(0, 9)):
        changed["__metadata__"] = meta
    text = draw(now_and_then_damaged(json.dumps(changed).encode()))
    length = pick(draw, None, None, None, None, 0, 1, 2**31, 2**40, 2**63, 2**64 - 1)
    return Attempt("model bytes", draw(readers), beside(raw_safetensors(text, data, length)))


SPECIAL: list[File] = [fifo, folder, absent, b"", b"\0" * 64]
SPECIAL += [link(f"/dev/{name}") for name in ("zero", "null", "full", "tty")] + [link("x"), link("/proc/self/mem")]
# After the last word: the file of each command line that is a special one.
PLACES = command_lines("""
edit a.png --reconstruct --model M OUT a.png
edit a.png b.png --harmonize --model M OUT b.png
edit a.png c.png --harmonize --mask b.png --model M OUT b.png
encode a.png b.png --model M --out l.safetensors b.png
encode d --model M --out l.safetensors d/b.png
interpolate a.png b.png --frames 2 --model M OUT b.png
restore b.png --task denoise --rounds 1 --model M OUT b.png
restore a.png --task inpaint --mask b.png --rounds 1 --model M OUT b.png
restore a.png --task deblur --kernel b.png --rounds 1 --model M OUT b.png
sample --like b.png --model M OUT b.png
sample --latents b.safetensors --model M OUT b.safetensors
sample --model p OUT p/cfg.json
sample --model p OUT p/ckpt/ep0007.pth
train b.toml --dry-run b.toml
recipes check b.toml b.toml
recipes show b.toml b.toml
recipes ls b.toml b.toml
train r.toml --data b.jsonl --set data.kind=jsonl --dry-run b.jsonl
train r.toml --data d --set data.kind=folder --dry-run d/x/b.png
train r.toml --data d --set data.kind=folder --dry-run d/classes.txt
train r.toml --data b.tar --set data.kind=shards --dry-run b.tar
plot training tiny OUT tiny/metrics.jsonl
plot training tiny OUT tiny/recipe.toml
sample --model tiny OUT tiny/model.safetensors
sample --model tiny OUT tiny/recipe.toml
evaluate M --count 64 --steps 1 --reference b.npz --data DATA b.npz
""")
# Where a file may be missing, or be none, without a fault.
NEED_NOT_BE = {"d/x/b.png", "d/classes.txt", "d/b.png", "m.safetensors"}


@st.composite
def places(draw: Any) -> Attempt:
    """Pipes, devices, folders, nothing, in the place of a file that is read."""
    file = pick(draw, *SPECIAL)
    *argv, name = pick(draw, *PLACES, *((*reader, "m.safetensors") for reader in READERS))
    files = {**beside(bases.tiny()), "b.png": bases.image(), "c.png": bases.image()}
    if name.startswith("p/"):
        files |= {f"p/{key}": value for key, value in bases.published().items()}
    if name.startswith("tiny/"):
        files |= {f"tiny/{key}": value for key, value in bases.run_files().items()}
    files[name] = file
    wrong = name not in NEED_NOT_BE and file is not absent and not name.startswith("tiny/") and argv[0] != "recipes"
    return Attempt("special files", tuple(argv), files, wrong=wrong)


LIKE = command_lines("""
sample --like like.png --model M OUT
sample --like like.png --model M --json OUT
sample --like like.png OUT
""")


@st.composite
def provenance(draw: Any) -> Attempt:
    """A PNG that says something of itself which no sample says."""
    text = draw(json_texts(bases.sampled("--count", pick(draw, "1", "4")))).decode("utf-8", "replace")
    files: dict[str, File] = {"m.safetensors": bases.tiny(), "like.png": bases.png_with(text)}
    return Attempt("provenance", pick(draw, *LIKE), files)


@st.composite
def latents(draw: Any) -> Attempt:
    """A file of latents, changed: its header, its tensors, its bytes."""
    header, found = bases.latents()
    found = dict(found)
    way = pick(draw, "header", "header", "tensor", "bytes")
    if way == "header":
        header = draw(mutated(header))
    elif way == "tensor":
        name = pick(draw, *sorted(found))
        tensor = found[name]
        others = [tensor[None], tensor.reshape(-1), tensor[:0], tensor * 0, tensor.float() * float("nan")]
        others += [tensor.float() * 1e30, tensor - 5, tensor + 10**9, tensor.repeat(2, *(1,) * (tensor.ndim - 1))]
        found[name] = pick(draw, *(tensor.to(dtype) for dtype in DTYPES), *others)
    content = bases.model(header, found)
    if way == "bytes":
        content = draw(damaged(content, 600))
    (argv,) = command_lines("sample --latents l.safetensors --model M OUT")
    return Attempt("latents", argv, {"l.safetensors": content, "m.safetensors": bases.tiny()})


FEATURED = command_lines("""
evaluate M --count 16 --steps 1 --features f.safetensors --reference test --data DATA
train r.toml --data DATA --set loss.perceptual=features:{work}/f.safetensors --set loss.rec_perceptual=1.0 --dry-run
features check f.safetensors --data DATA
""")


@st.composite
def features(draw: Any) -> Attempt:
    """A feature network's file, changed: header, tensors, bytes."""
    content = (bases.ROOT / "zoo" / "fashion-scorer.safetensors").read_bytes()
    table, _ = table_of(content)
    header = json.loads(table.pop("__metadata__")["spherectl"])
    way = pick(draw, "header", "header", "header", "table", "bytes")
    if way == "header":
        content = saying(content, draw(json_texts(header)))
    elif way == "table":
        content = tabled(content, draw(mutated(table)))
    else:
        content = draw(damaged(content, 3000))
    return Attempt("feature network", pick(draw, *FEATURED), {"f.safetensors": content, **beside(bases.tiny())})


# Published checkpoints

OPCODES = b"".join(opcode.code.encode("latin-1") for opcode in pickletools.opcodes)
NAMED = [b"os\nsystem", b"builtins\neval", b"torch\nload", b"collections\nOrderedDict", b"\x1b[31m\nx"]
NAMED += [b"torch._utils\n_rebuild_tensor_v2"]
SIZED = [bytes([code]) for code in b"\x96\x8e\x8dBX\x8b\x95Tjr"]
ODD_NAMES = ["ep.pth", "ep99999999999999999999.pth", "ep-1.pth", "\x1b[31m.pth", "ep0008.pth"]
PUBLISHED_USES = command_lines("""
sample --model p --count 1 --steps 1 OUT
zoo add p --index zoo/index.toml --licence MIT
""")


@st.composite
def pickles(draw: Any, base: bytes) -> bytes:
    """A pickle with opcodes changed, or made of opcodes alone."""
    way = pick(draw, "opcodes", "changed", "damaged", "named", "sized")
    if way == "opcodes":
        picked = draw(st.lists(st.sampled_from(OPCODES), max_size=12))
        return b"\x80\x02" + b"".join(bytes([code]) + draw(st.binary(max_size=5)) for code in picked) + b"."
    if way == "named":
        return b"\x80\x02c" + bytes(pick(draw, *NAMED)) + b"\n(S'touch pwned'\ntR."
    if way == "sized":
        return pickled_bomb(pick(draw, 8 << 30, 2**31 - 1, 2**63 - 1, 2**64 - 1), pick(draw, *SIZED))
    if way == "changed" and base:
        out = bytearray(base)
        for _ in range(draw(st.integers(1, 4))):
            out[draw(st.integers(0, len(out) - 1))] = pick(draw, *OPCODES)
        return bytes(out)
    return draw(damaged(base))


def pickled_bomb(size: int, code: bytes = b"\x96") -> bytes:
    """A pickle that asks for `size` bytes; by default for a bytearray."""
    return b"\x80\x05" + code + struct.pack("<Q", size) + b"."


@st.composite
def checkpoints(draw: Any) -> Attempt:
    """A folder as the authors publish it, changed: cfg.json, the zip, the pickle in it."""
    files = dict(bases.published())
    way = pick(draw, "cfg", "cfg", "cfg", "pickle", "pickle", "bytes", "bare", "names")
    name = "ckpt/ep0007.pth"
    if way == "cfg":
        files["cfg.json"] = draw(json_texts(json.loads(files["cfg.json"])))
    elif way == "bytes":
        files[name] = draw(damaged(files[name], 3000))
    elif way == "bare":
        files[name] = draw(pickles(pickle.dumps({"model": [1.0, {"a": "b"}]})))
    elif way == "names":
        files[f"ckpt/{pick(draw, *ODD_NAMES)}"] = b""
    else:
        written, packed = io.BytesIO(), pick(draw, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        with zipfile.ZipFile(io.BytesIO(files[name])) as old, zipfile.ZipFile(written, "w", packed) as new:
            for info in old.infolist():
                content = old.read(info)
                new.writestr(info.filename, draw(pickles(content)) if info.filename.endswith("data.pkl") else content)
        files[name] = written.getvalue()
    return Attempt("published folder", pick(draw, *PUBLISHED_USES), {f"p/{key}": it for key, it in files.items()})


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
