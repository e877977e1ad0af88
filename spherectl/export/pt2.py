"""torch.export programs: .pt2 files that torch alone loads and runs, in float32, at any batch.

Each file is run in a fresh process that cannot import spherectl, and compared with the model, before it takes its name.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

from spherectl.api import Model
from spherectl.checks import check_choice
from spherectl.errors import SpherectlError
from spherectl.export import check
from spherectl.export.check import Tensors
from spherectl.export.graphs import PARTS, Part, Traced, trace
from spherectl.export.metadata import Exported, about
from spherectl.files import replacing

ABOUT = "spherectl.json"  # the file inside a .pt2 that says what it is

# Run by the fresh process. Arguments: the program, the inputs of every case, the file for the outputs, their names.
RUN = """
import sys
sys.modules["spherectl"] = None  # to import it now fails
import torch
from safetensors.torch import load_file, save_file
program, given, found, *names = sys.argv[1:]
module = torch.export.load(program).module()
cases = {}
for key, tensor in load_file(given).items():
    case, name = key.split(".")
    cases.setdefault(case, {})[name] = tensor
outputs = {}
with torch.no_grad():
    for case, inputs in cases.items():
        out = module(**inputs)
        out = out if isinstance(out, (tuple, list)) else (out,)
        outputs.update({f"{case}.{name}": one.contiguous() for name, one in zip(names, out, strict=True)})
save_file(outputs, found)
"""


def export_pt2(model: Model, folder: Path, parts: Sequence[Part] = PARTS) -> list[Exported]:
    """Write the parts of a model as decoder.pt2, encoder.pt2 and round.pt2.

    Inputs and outputs are as for `export_onnx`. Inputs are given by name:
    `torch.export.load(path).module()(latent=z, labels=y)`.

    Args:
        model: loaded in float32.
        folder: made if it is missing; files of those names are replaced.
        parts: which.

    Returns:
        What was written, in the order of `parts`.

    Raises:
        UsageError: the model was loaded in less than float32.
        SpherectlError: a program does not run without spherectl, or differs too much from the model; not written.
    """
    parts = [check_choice(part, PARTS, "parts") for part in parts]
    return [_write(model, Path(folder) / f"{part}.pt2", part) for part in parts]


def _write(model: Model, path: Path, part: Part) -> Exported:
    traced = trace(model, part)
    for node in traced.program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    given = check.cases(model, part)
    with replacing(path) as temporary:
        _save(traced, temporary, "")
        difference = check.compare(model, part, given, run(temporary, given, traced.outputs))
        check.demand(difference, "float32", path.name)
        text = json.dumps(about(model, part, "float32", difference), sort_keys=True, ensure_ascii=False)
        _save(traced, temporary, text)
    return Exported(path, difference)


def _save(traced: Traced, path: Path, text: str) -> None:
    held = io.BytesIO()  # in memory first: on a full disk torch's own writer ends the process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a place without a name
        torch.export.save(traced.program, held, extra_files={ABOUT: text})
    path.write_bytes(held.getbuffer())


def run(path: Path, given: Sequence[Tensors], outputs: Sequence[str]) -> list[Tensors]:
    """Run a program in a process of its own, in which spherectl cannot be imported.

    Args:
        path: a .pt2 file.
        given: inputs by name.
        outputs: names of what comes out, in order.

    Raises:
        SpherectlError: it does not run.
        FileError: there is no room for its inputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        sent, found = Path(folder) / "given.safetensors", Path(folder) / "found.safetensors"
        tensors = {f"{i}.{name}": t.clone() for i, inputs in enumerate(given) for name, t in inputs.items()}
        sent.write_bytes(safetensors.torch.save(tensors))
        ended = subprocess.run(
            [sys.executable, "-I", "-c", RUN, str(path), str(sent), str(found), *outputs],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            reason = (ended.stderr.strip().splitlines() or ["no message"])[-1].rstrip(".")
            raise SpherectlError(f"{path.name} does not run in a process of its own: {reason}. It was not written.")
        made = safetensors.torch.load_file(found)
    return [{name: made[f"{i}.{name}"] for name in outputs} for i in range(len(given))]
