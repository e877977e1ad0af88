"""docs/performance.md, written whole from docs/performance.json: no number in it is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.tables import (
    BYTES,
    DRAWN,
    EQUALITY,
    GROWTH,
    IMAGES,
    PEAKS,
    STEPPED,
    Columns,
    Row,
    show,
    table,
)

INTRO = """\
# Speed

How fast spherectl is on a processor, measured on {date} by

    {command}

on

{machine}
- versions: {versions}
- compiled kernels: {kernels}

The command writes this page from [performance.json](performance.json). [speed.md](speed.md) says why it is fast.

| path | what it is |
| --- | --- |
| float32 | the baseline: the plain model, eager, no autocast, no kernels |
| bfloat16, plain | the same after `.bfloat16()`; in training, the same under autocast |
| bfloat16, kernels | what `--dtype auto` takes where there are compiled kernels |
| int8, kernels | `--dtype int8`: the products of the blocks in int8, the rest as above |

| column | what it is |
| --- | --- |
| ms | median of the visits, beside the lowest and the highest; first calls do not count |
| GFLOP | the products of one call, counted on the plain float32 path |
| % of peak | their speed, over the speed of torch's own matrix product in that precision (next table) |
| memory | what a call needs beyond what the process held before it |
| ratio | the baseline's time divided by the path's time |

All cases were timed in turn in one process, {visits} visits in all, each case's spread over the whole time. A call of
less than {turn_ms} ms is repeated for that long, and the mean counts once.

## What the machine can do

Products of two square matrices of side {matrix_side:,}; a copy of {copied_mb:,} MB, bytes read and bytes written.

{peaks}
"""

DRAW = """
## Sampling

`spherectl.generate`, no files written. Guided means guidance {guidance:g}, two passes of each network. Memory of
several steps is measured at two, since later rounds repeat the second.
"""

PASSES = """
## Encoding and reconstructing

{rows}
"""

TRAINING = """
## A training step

A whole step of `spherectl train {recipe}`, with and without the perceptual part of the loss. Plain bfloat16 is
autocast here, once with torch's own attention and once with attention by plain products. Memory is the whole run's.

{rows}
"""

EQUAL = """
## The same losses

The recipe `{recipe}`, cut to {steps:,} steps ({length:,} images), was trained twice from the same seeds by

    {command}

on {date}. The mean losses of the last {last:,} steps differ by {difference_percent} %.

{rows}
"""

QUALITY = """
{images:,} samples of {model} from the same seeds, in float32 and on the fast paths. PSNR is measured before
images are rounded to levels.

{scores}

{rows}
"""

SCORED = """\
Frechet distances are to the test set, by the zoo's {scorer}; the change is relative, and the interval is half the
width of the {covered:g} % bootstrap interval of the float32 distance ({resamples} resamples of its images)."""
UNSCORED = "Fashion-MNIST was not on the machine, so there are no Frechet distances."

INVARIANCE = """
{images} images ({what}) were computed together and each alone. Bytes that differ:

{rows}
"""

GROWN = """
## Growth

One step without guidance unless a table says otherwise, on the path that `--dtype auto` takes (here {precision}); few
repetitions, not in turn with the rest. Memory is what the first call needs beyond the weights. Over resolution and
size it includes the kernels' own copy of the decoder, over batch and steps it does not.
"""

OVER = {
    "resolution": "Over resolution: one image of a small model, tokens as in the paper.",
    "size": "Over size: one image of 32 px in patches of 2.",
    "batch": "Over batch: {model}.",
    "steps": "Over steps: {model}.",
}

CLUSTER = """
## What the paper's recipes need on a cluster

Computed, not measured on a GPU: the products of one training step for each image, counted from the networks' shapes
(with VGG16 and ConvNeXt-Small for the perceptual part), times the images of the whole recipe. Animal Faces is AFHQ's
first version. GPU-hours are for one {gpu} at a share of its dense bfloat16 peak of {gpu_tflops} TFLOP/s (source:
{source}).

{rows}{share}
"""

LEFT_OUT = """
## What was not run

- Nothing on a GPU, on a processor of another kind, or on more cores.
{rows}
"""


def page(results: Row) -> str:
    """The page of the JSON's table; what the table lacks is left out."""
    parts = []
    if "peaks" in results:
        parts += [_intro(results), *_draws(results), _passes(results), _training(results)]
    if "training_equality" in results:
        parts.append(_equality(results["training_equality"]))
    if "peaks" in results:
        parts += [_quality(results), *_growth(results), _cluster(results), _left_out(results)]
    text = "".join(parts).rstrip("\n") + "\n"
    return text if text.startswith("# ") else f"# Speed\n{text}"


def _intro(results: Row) -> str:
    return INTRO.format(
        **{key: results[key] for key in ("date", "command", "kernels", "visits")},
        **{key: results["method"][key] for key in ("turn_ms", "matrix_side", "copied_mb")},
        machine="\n".join(f"- {key.replace('_', ' ')}: {show(value)}" for key, value in results["machine"].items()),
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        peaks=table(results["peaks"], PEAKS),
    )


def _draws(results: Row) -> Iterable[str]:
    yield DRAW.format(guidance=results["method"]["guidance"])
    for model in results["models"]:
        rows = [row for row in _rows(results, "draws") if row["model"] == model["name"]]
        where = f", SHA-256 {model['sha256']:.12}" if model["sha256"] else ", random weights"
        yield f"\n### {model['title']}\n\n{show(model['parameters'])} parameters{where}.\n\n{table(rows, DRAWN)}\n"
        if (share := model.get("baseline_percent")) is not None:
            verdict = "so it is a baseline to compare with" if model["baseline_holds"] else "so no ratio counts"
            most = results["method"]["least_baseline_percent"]
            compared = "at least" if model["baseline_holds"] else "less than"
            yield (
                f"\nWith {model['baseline_images']} images in one step the baseline reaches {show(share)} % of the "
                f"float32 peak, {compared} the\n{show(most)} % that it must reach: {verdict}.\n"
            )


def _passes(results: Row) -> str:
    rows = _rows(results, "passes")
    return PASSES.format(rows=table(rows, DRAWN | {"what": "what"})) if rows else ""


def _training(results: Row) -> str:
    rows = _rows(results, "training")
    return TRAINING.format(recipe=results["recipe"], rows=table(rows, STEPPED)) if rows else ""


def _equality(equal: Row) -> str:
    facts = {key: value for key, value in equal.items() if key != "rows"}
    return EQUAL.format(**facts, rows=table(equal["rows"], EQUALITY))


def _quality(results: Row) -> str:
    if not results.get("quality"):
        return ""
    quality, invariance = results["quality"], results["invariance"]
    text = "\n## The same images\n"
    if rows := quality["rows"]:
        columns = {key: head for key, head in IMAGES.items() if key in rows[0]}
        scores = UNSCORED if quality["scorer"] is None else SCORED.format(**quality)
        shown = {key: quality[key] for key in ("images", "model")}
        text += QUALITY.format(**shown, scores=scores, rows=table(rows, columns))
    first = invariance[0]
    return text + INVARIANCE.format(images=first["images"], what=first["what"], rows=table(invariance, BYTES))


def _growth(results: Row) -> Iterable[str]:
    rows = results.get("growth")
    if not rows:
        return
    yield GROWN.format(precision=rows[0]["precision"])
    for over, title in OVER.items():
        chosen = [row for row in rows if row["over"] == over]
        if chosen:
            yield f"\n{title.format(model=results['models'][0]['name'])}\n\n{table(chosen, GROWTH | {'value': over})}\n"


def _cluster(results: Row) -> str:
    cluster = results.get("cluster")
    if not cluster:
        return ""
    columns: Columns = {
        "recipe": "recipe",
        "parameters": "parameters",
        "images": "images",
        "epochs": "epochs",
        "gflop_an_image": "GFLOP an image",
        "perceptual_gflop_an_image": "perceptual",
        "exaflop": "EFLOP",
        **{f"gpu_hours_at_{share}": f"GPU-hours at {share} %" for share in cluster["shares_percent"]},
    }
    steps = [row for row in _rows(results, "training") if row["what"] == "training step"]
    shares = {row["path"]: row["percent_of_peak"] for row in steps if row["percent_of_peak"] is not None}
    measured = " and ".join(f"{show(share)} % of the {path} peak" for path, share in _by_precision(shares).items())
    share = f"\n\nOn this CPU a training step of the embedded recipe reached {measured}." if measured else ""
    return CLUSTER.format(**cluster | {"rows": table(cluster["rows"], columns)}, share=share)


def _by_precision(shares: Row) -> Row:
    """The share of the last path of each precision."""
    return {path.partition(",")[0]: share for path, share in shares.items()}


def _left_out(results: Row) -> str:
    return LEFT_OUT.format(rows="\n".join(f"- {sentence}" for sentence in results["left_out"]))


def _rows(results: Row, kind: str) -> list[Row]:
    return [row for row in results["cases"] if row["kind"] == kind]
