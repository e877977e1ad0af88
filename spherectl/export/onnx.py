"""ONNX files: one graph for each part, opset 20, in float32, float16 or with weights of 8 bits.

Each file is run by ONNX Runtime and compared with the model before it takes its name.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spherectl.api import Model
from spherectl.checks import check_choice
from spherectl.errors import UsageError
from spherectl.export import check
from spherectl.export.check import PRECISIONS, Difference, Precision, Tensors
from spherectl.export.graphs import PARTS, Part, Traced, trace
from spherectl.export.metadata import about
from spherectl.files import replacing
from spherectl.model.formats.header import HEADER_KEY

OPSET = 20
PRODUCER = "spherectl"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_BYTES = 2_000_000_000  # of one ONNX file: a limit of the format, protobuf's
NORM = ("Pow", "ReduceMean", "Add", "Sqrt", "Reciprocal", "Reshape", "Unsqueeze")  # a norm's statistics, in order


@dataclass(frozen=True)
class OnnxFile:
    """A file that was written.

    Attributes:
        path: where.
        part: what it computes.
        precision: of its weights.
        inputs, outputs: names, in order.
        difference: from the model.
    """

    path: Path
    part: Part
    precision: Precision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: Difference


def export_onnx(
    model: Model, folder: Path, parts: Sequence[Part] = PARTS, precision: Precision = "float32"
) -> list[OnnxFile]:
    """Write the graphs of a model: decoder.onnx, encoder.onnx, round.onnx.

    Images are (B, 3, H, W) float32 in [0, 1], labels int64, the null class being `num_classes`; a graph of an
    unconditional model has no labels. B may be any number. Latents (B, N, d) float32 may be any points: a graph puts
    them on the sphere first.

    - decoder: latent, labels (B,) -> image.
    - encoder: image, labels (B,) -> latent on the sphere, and raw, the latent before, which guidance mixes.
    - round: latent, noise (B, N, d), sigma (), labels (R, B), encoder_weights (R,), decoder_weights (R,) ->
      next_latent, image. One round of sampling over R sets of labels: R = 1 of weight 1, or guidance with the sets
      (null, class) and the weights (1 - w, w). `image` is decoded from the given latent; the last step needs the
      decoder alone, or this image.

    Args:
        model: loaded in float32.
        folder: made if it is missing; files of those names are replaced.
        parts: which graphs.
        precision: float16 and int8 say how weights are kept; inputs and outputs are float32 all the same.

    Returns:
        What was written, in the order of `parts`.

    Raises:
        UsageError: a package is missing, the model was loaded in less than float32, or a graph is too large for a file.
        SpherectlError: a graph differs too much from the model (`check.demand`); its file is not written.
    """
    precision = check_choice(precision, PRECISIONS, "precision")
    parts = [check_choice(part, PARTS, "parts") for part in parts]
    check_packages()
    for part in parts:
        _check_size(model, part)
    return [_write(model, Path(folder) / f"{part}.onnx", part, precision) for part in parts]


def check_packages() -> None:
    """Refuse to begin without the packages that write and run ONNX.

    Raises:
        UsageError: one is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(", ".join(missing).rsplit(", ", 1))
        raise UsageError(
            f"ONNX needs {names}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            "Install spherectl's extra: pip install 'spherectl[export]'.",
        )


def session(path: Path, threads: int | None = None) -> Any:
    """A file loaded by ONNX Runtime for the CPU; on as many threads as torch uses, or so many."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, given: Sequence[Tensors], threads: int | None = None) -> list[Tensors]:
    """Run a file by ONNX Runtime on the CPU, once for each set of inputs.

    Args:
        path: an ONNX file.
        given: inputs by name.
        threads: None: as many as torch uses.
    """
    opened = session(path, threads)
    names = [output.name for output in opened.get_outputs()]
    found = []
    for inputs in given:
        outputs = opened.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        found.append({name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)})
    return found


def _write(model: Model, path: Path, part: Part, precision: Precision) -> OnnxFile:
    import onnx

    traced = trace(model, part)
    graph = in_precision(convert(traced), precision)
    given = check.cases(model, part)
    with replacing(path) as temporary:
        onnx.save(graph, temporary)
        difference = check.compare(model, part, given, run(temporary, given))
        check.demand(difference, precision, path.name)
        text = json.dumps(about(model, part, precision, difference), sort_keys=True, ensure_ascii=False)
        onnx.helper.set_model_props(graph, {HEADER_KEY: text})
        onnx.save(graph, temporary)
    return OnnxFile(path, part, precision, traced.inputs, traced.outputs, difference)


def convert(traced: Traced) -> Any:
    """A traced part as an onnx.ModelProto in float32, without paths of this machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        written = torch.onnx.export(
            traced.program,
            input_names=traced.inputs,
            output_names=traced.outputs,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert written is not None
    graph = written.model_proto
    _name_sizes(graph.graph)
    for node in graph.graph.node:  # torch writes the source line of each
        del node.metadata_props[:]
        node.ClearField("doc_string")
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    graph.producer_name = PRODUCER
    return graph


def in_precision(graph: Any, precision: Precision) -> Any:
    """The graph with weights of fewer bits; may change the given one. Inputs and outputs keep their types."""
    match precision:
        case "float16":
            return _half(graph)
        case "int8":
            return _int8(graph)
    return graph


def _half(graph: Any) -> Any:
    """float16, except the statistics of norms: float16 cannot hold squares of numbers above 255."""
    from onnxruntime.transformers import float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers rounded to the nearest float16
        blocked = [node.name for node in _norm_statistics(graph.graph)]
        graph = float16.convert_float_to_float16(graph, keep_io_types=True, node_block_list=blocked)
    _join_casts(graph.graph)
    return graph


def _norm_statistics(graph: Any) -> Iterator[Any]:
    """The nodes from a square to the reciprocal root of its mean."""
    users = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        step = node if node.op_type == "Pow" else None
        while step is not None and step.op_type in NORM:
            yield step
            step = users.get(step.output[0])


def _join_casts(graph: Any) -> None:
    """Remove the casts to float16 and back between two nodes that compute in float32."""
    import onnx

    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

    def casts(to: int) -> dict[str, str]:
        found = [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == to]
        return {node.output[0]: node.input[0] for node in found}

    down, up = casts(half), casts(full)
    straight = {output: down[source] for output, source in up.items() if source in down}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = straight.get(name, name)
    kept = {output.name for output in graph.output} | {name for node in graph.node for name in node.input}
    unused = [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in kept]
    for node in unused:
        graph.node.remove(node)


def _int8(graph: Any) -> Any:
    """Products with weights of 8 bits. Unsigned: with signed ones some processors' sums saturate."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.onnx_model import ONNXModel

    products = ONNXModel(graph)
    products.replace_gemm_with_matmul()
    level = logging.getLogger().level
    with tempfile.TemporaryDirectory() as folder:
        logging.getLogger().setLevel(logging.ERROR)  # it asks for a preprocessing that changes nothing here
        try:
            target = Path(folder) / "quantized.onnx"
            quantize_dynamic(products.model, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8)
        finally:
            logging.getLogger().setLevel(level)
        written = onnx.load(target)
    written.producer_name = PRODUCER
    return written


def _name_sizes(graph: Any) -> None:
    """Name the dynamic sizes "batch" and "sets", as in the documentation."""
    for value in (*graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.name == "labels" and len(sizes) == 2:
            sizes[0].dim_param, sizes[1].dim_param = "sets", "batch"
        elif sizes:
            sizes[0].dim_param = "sets" if value.name.endswith("_weights") else "batch"


def _check_size(model: Model, part: Part) -> None:
    used = {"decoder": ["decoder"], "encoder": ["encoder"], "round": ["encoder", "decoder"]}[part]
    numbers = sum(p.numel() for name in used for p in getattr(model.network, name).parameters())
    if 4 * numbers > LARGEST_BYTES:
        raise UsageError(
            f"{part}.onnx would have {4 * numbers / 1e9:.1f} GB of float32 weights; an ONNX file holds 2 GB.",
            "Leave that part out with --parts, or use --format pt2.",
        )
