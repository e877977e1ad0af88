"""How fast spherectl is on this machine's processor: `make bench` writes docs/performance.json and docs/performance.md.

The page is written from the JSON alone: no number in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import cases, cluster, quality, scoring, subjects
from benchmarks.growth import growth
from benchmarks.page import page
from benchmarks.subjects import BASELINE, INT8, KERNELS, PLAIN, Subject
from benchmarks.timing import TURN_S, Group, machine, rounded, tell, time_in_turns
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import SpherectlError, UsageError
from spherectl.files import write_text
from spherectl.model import kernels
from spherectl.versions import versions

ROOT = Path(__file__).resolve().parents[1]
EXCERPT = ROOT / "tests" / "data" / "fashion-excerpt"  # what the images show does not change the speed
FORMAT = 2  # of the JSON
EQUALITY = "training_equality"
JUDGED, JUDGED_IMAGES = "base", 8  # where the baseline itself must come near the peak
MIN_BASELINE_PERCENT = 80


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(subjects.NAMES),
        metavar="MODEL",
        help=f"of {', '.join(subjects.RANDOM)} and a zoo name, model file or run; default all and {subjects.EMBEDDED}",
    )
    parser.add_argument("--recipe", default="fashion-mnist", help="whose step is timed; default %(default)s")
    parser.add_argument("--seconds", type=float, default=720, help="for all of it, about; default %(default)s")
    parser.add_argument("--images", type=int, default=1000, help="compared with float32; default %(default)s")
    parser.add_argument(
        "--growth", action=argparse.BooleanOptionalAction, default=True, help="and what the paper's recipes need"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    try:
        results = measure(given)
        kept = read(given.out)
        write(given.out, results | {key: kept[key] for key in (EQUALITY,) if key in kept})
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out / "performance.md")


def read(folder: Path) -> dict[str, Any]:
    """What an earlier command wrote there; empty where there is nothing, or something older."""
    try:
        found = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def write(folder: Path, results: dict[str, Any]) -> None:
    """Both files."""
    write_text(folder / "performance.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_text(folder / "performance.md", page(results))


def command_line(module: str) -> str:
    """What was typed, for the module benchmarks.speed or the like."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def measure(given: Namespace) -> dict[str, Any]:
    """Everything; JSON-able.

    Args:
        given: models, recipe, seconds, images, growth.
    """
    until = time.monotonic() + given.seconds
    about = {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line("benchmarks.speed"),
    }
    about |= {"machine": machine(), "versions": versions(), "kernels": kernels.explain()}
    recipe = recipes.load(zoo.find_recipe(given.recipe))

    # Nothing here is timed in turn, so it comes before the models that are.
    trained = _trained([name for name in given.models if name not in subjects.RANDOM])
    dataset = _compared(trained, given.images)
    further = _further(trained) if given.growth else {}

    tell("each case once, for its memory")
    chosen = [trained] if trained else []
    chosen += [subjects.random(name) for name in given.models if name in subjects.RANDOM]
    kinds: dict[str, list[Group]] = {"machine": cases.machine_groups()}
    kinds["draws"] = [group for subject in chosen for group in cases.draw_groups(subject)]
    kinds["passes"] = list(cases.pass_groups(trained)) if trained else []
    excerpt = open_dataset(recipe.data, recipe.model.image_size, root=EXCERPT)
    kinds["training"] = list(cases.training_groups(recipe, excerpt))
    visits = time_in_turns([group for groups in kinds.values() for group in groups], until)

    peaks = cases.peaks_by_precision(kinds["machine"])
    rows = [
        {"kind": kind, **row}
        for kind, groups in kinds.items()
        if kind != "machine"
        for group in groups
        for row in cases.case_rows(group, peaks)
    ]
    return {
        **about,
        "recipe": recipe.name,
        "visits": visits,
        "method": {
            "turn_ms": round(TURN_S * 1000),
            "matrix_side": cases.MATRIX,
            "copied_mb": cases.COPIED_BYTES // 1_000_000,
            "guidance": subjects.GUIDANCE,
            "least_baseline_percent": MIN_BASELINE_PERCENT,
        },
        "peaks": cases.peak_rows(kinds["machine"]),
        "models": [_model_row(subject, rows) for subject in chosen],
        "cases": rows,
        **dataset,
        **further,
        "left_out": _left_out(chosen, rows),
    }


def _trained(names: list[str]) -> Subject | None:
    """The model that has learned something: images are compared with it, and what is small is timed with it."""
    if len(names) > 1:
        raise UsageError(f"Expected one trained model at most, got {', '.join(names)}.")
    return subjects.embedded(names[0]) if names else None


def _compared(trained: Subject | None, images: int) -> dict[str, Any]:
    """The images of the fast ways beside those of float32."""
    if trained is None:
        return {}
    tell(f"drawing {images} images in each way, to compare them")
    test = _test_set(trained)
    rows = quality.differences(trained, images, test)
    scored = {"scorer": scoring.SCORER, "resamples": quality.RESAMPLES, "covered": 100 * quality.COVERED}
    about = {"model": trained.name, "images": images, **(scored if test is not None else {"scorer": None})}
    return {"quality": {**about, "rows": rows}, "invariance": quality.invariance(trained)}


def _test_set(trained: Subject) -> ImageSet | None:
    """Fashion-MNIST's test images where they are on the machine and the model has their classes."""
    model = trained.baseline.recipe
    try:
        test = open_dataset(model.data, model.model.image_size, split="test", download=False)
    except SpherectlError:
        return None
    return test if trained.baseline.num_classes == len(test.class_names) else None


def _further(trained: Subject | None) -> dict[str, Any]:
    """Growth, and the cluster."""
    tell("growth, and what the paper's recipes need")
    about = {"gpu": cluster.GPU, "gpu_tflops": cluster.GPU_TFLOPS, "source": cluster.SOURCE}
    about["shares_percent"] = list(cluster.SHARES)
    return {"growth": growth(trained), "cluster": {**about, "rows": cluster.needs()}}


def _model_row(subject: Subject, rows: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": subject.name, "title": subject.title, "parameters": subject.parameters}
    row["sha256"] = subject.sha256
    if subject.name == JUDGED:
        share = next(
            r["percent_of_peak"]
            for r in rows
            if (r["model"], r["what"], r["images"], r["path"]) == (JUDGED, subjects.what(1), JUDGED_IMAGES, BASELINE)
        )
        holds = share >= MIN_BASELINE_PERCENT
        row |= {"baseline_images": JUDGED_IMAGES, "baseline_percent": share, "baseline_holds": holds}
    return row


def _left_out(chosen: list[Subject], rows: list[dict[str, Any]]) -> list[str]:
    """Sentences: what would take too long, and what this machine cannot do."""
    sentences = []
    for subject in chosen:
        speeds = [r["gflop"] / r["ms"] for r in rows if (r["model"], r["path"]) == (subject.name, BASELINE)]
        for steps, batch in subject.left_out:
            gflop = batch * subject.gflop(steps)
            seconds = rounded(gflop / max(speeds) / 1000)
            images = "1 image" if batch == 1 else f"{batch} images"
            sentences.append(f"{subject.title}: {subjects.what(steps)}, {images}: about {seconds:g} s in float32.")
    missing = [path for path in (PLAIN, KERNELS, INT8) if any(path not in subject.models for subject in chosen)]
    sentences += [f"{path}: not on this processor, or not for all of these models." for path in missing]
    return sentences


if __name__ == "__main__":
    main()
