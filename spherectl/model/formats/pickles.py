"""torch's files of tensors, checked before torch reads them: nothing in them is executed, or larger than the file.

torch has written archives since version 1.6. Before, it wrote several pickles followed by the tensors' bytes; many
published files of weights still are of this kind.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from spherectl.errors import FileError
from spherectl.model.formats.package import check_finite
from spherectl.safetensors_header import opened
from spherectl.shown import shortened

MAX_RECORDS = 100_000  # of an archive: one for each tensor; published ones have below 10,000
MAX_PICKLE = 8 << 20  # bytes of pickles, which have names and shapes; published ones have below 1 MB
MAX_OPCODES = 2_000_000  # of a pickle, about 30 for each tensor

# What a pickle of tensors may name: tensors of torch's old types, tables of them, and small values that a training may
# keep beside them. Torch's own list is longer, and allows a bytearray of any announced size.
_GLOBALS = {
    "_codecs encode",
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
}
_TYPES = re.compile(
    r"torch(\.cuda)? (Float|Half|BFloat16|Double|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch (b?float\d+|u?int\d+|bool)"
)
# A file that is no archive: its number, its version, the writer's system, the object, the names of its storages.
_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_LEGACY_PICKLES, _LEGACY_OBJECT = 5, 3


def read_tensors(path: Path, hint: str) -> dict[str, Tensor]:
    """The tensors of a state dict, by name, on the CPU.

    Args:
        path: a file of weights as torch writes it, now or before version 1.6.
        hint: of every error about what is in it.

    Raises:
        FileError: missing, no regular file, damaged, or holds anything else, or numbers that are not finite.
    """
    state = load(path, "file of weights", hint)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise FileError(f"{path} holds no state dict: expected tensors by name.", hint)
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > path.stat().st_size:
        raise FileError(f"{path} is not a readable file of weights: its tensors are larger than the file.", hint)
    check_finite(state, str(path))
    return state


def load(path: Path, what: str, hint: str = "", *, mapped: bool = False) -> object:
    """Read a file of torch's on the CPU, after its pickle was checked.

    Args:
        path: a file as torch writes it, now or before version 1.6.
        what: the name of such a file in errors, such as "checkpoint".
        hint: of every error about what is in it.
        mapped: map the tensors of an archive instead of reading them; they are lost if the file is cut.

    Raises:
        FileError: missing, no regular file, damaged, or its pickle names more than tensors and small values.
    """
    with opened(path) as file:
        try:
            if archive := file.read(4) == b"PK\x03\x04":
                check_archive(file)
            else:
                _check_legacy(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if mapped and archive:
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 torch's reader of pickles raises any kind at one that is damaged
            raise FileError(f"{path} is not a readable {what}: {reason_of(error)}.", hint) from None


def check_archive(file: BufferedReader) -> None:
    """Refuse an archive whose pickle names more than tensors, or that unpacks to more than its bytes.

    Args:
        file: opened for reading; its place afterwards is any.

    Raises:
        ValueError, zipfile.BadZipFile, OSError: it is damaged, or another archive than torch writes.
    """
    size = file.seek(0, 2)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise ValueError("it is not an archive, as torch writes them since version 1.6") from None
    records = archive.infolist()
    names = {record.filename.lower() for record in records}
    pickles = [record for record in records if record.filename.lower().endswith("/data.pkl")]
    if len(records) > MAX_RECORDS or len(names) < len(records) or len(pickles) != 1:
        raise ValueError("its archive is not one of a checkpoint")
    if any(
        record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size for record in records
    ):
        raise ValueError("its archive is compressed, as torch never writes them")
    if sum(record.file_size for record in records) > size or pickles[0].file_size > MAX_PICKLE:
        raise ValueError("its archive promises more than a checkpoint has")
    _check_pickle(io.BytesIO(archive.read(pickles[0])))


def reason_of(error: Exception) -> str:
    """Torch's message about a damaged file, as the end of a sentence."""
    said = str(getattr(error, "strerror", None) or error).strip()
    return shortened(said.splitlines()[0].rstrip(".")) if said else type(error).__name__


def _check_legacy(file: BufferedReader) -> None:
    """Refuse a file that torch before version 1.6 did not write, or that counts more of anything than it has bytes."""
    size = file.seek(0, 2)
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_PICKLE))
    if _LEGACY not in pickles.getvalue()[:32]:
        raise ValueError("torch did not write it")
    for number in range(_LEGACY_PICKLES):
        _check_pickle(pickles, size if number == _LEGACY_OBJECT else None)


def _check_pickle(content: io.BytesIO, max_number: int | None = None) -> None:
    """Refuse a pickle that names more than tensors, or more bytes than there are; nothing is built from it.

    Args:
        content: from which one pickle is read.
        max_number: the largest whole number allowed in it, because torch allocates that many numbers before it reads
            them from a file that is not an archive; None: any.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        named = argument if opcode.name == "GLOBAL" else ""
        known = not named or named in _GLOBALS or _TYPES.fullmatch(named)
        if not known or opcode.name in ("STACK_GLOBAL", "INST", "OBJ"):
            raise ValueError("it is damaged, or holds more than tensors, which is never executed here")
        if max_number is not None and isinstance(argument, int) and argument > max_number:
            raise ValueError("it names more numbers than it has")
        if number >= MAX_OPCODES:
            raise ValueError("its pickle is longer than any checkpoint's")
