"""What restoring does to images of a model's own kind, beside scikit-image; and the search for its settings.

The settings are chosen on training images; what they reach is measured on test images. Writes docs/restoration.json, in
which other models stay as they are, and the tables between the marks of docs/restoration.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import skimage
import torch
from torch import Tensor

from benchmarks.scoring import SCORER, frechet, reference_of
from benchmarks.speed import ROOT, command_line
from benchmarks.tables import Columns, Row, put_between, table
from benchmarks.timing import machine, rounded, tell
from experiments.restoration_cases import CASES, ROUNDS, Case
from spherectl import api
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float, to_uint8
from spherectl.editing.measurements import Measurement, measured, misfit
from spherectl.editing.restoration import restore
from spherectl.errors import SpherectlError
from spherectl.evaluation.extractors import Extractor, open_extractor
from spherectl.evaluation.reference import Reference
from spherectl.files import write_text
from spherectl.images import psnr

SEED = 0
MARGIN_DB = 2.0  # of PSNR that a setting may lie below the baseline
MAX_WORSE = 0.2  # share of the images whose PSNR it may leave below that of what the rounds begin with

RESULTS: Columns = {
    "task": "task",
    "what": "images",
    "psnr_db": "PSNR, dB",
    "frechet": "Frechet distance",
    "misfit": "misfit, of 255",
    "worse": "made worse",
}
CHOSEN: Columns = {"task": "task", "lambda": "lambda", "noise_deg": "noise, degrees", "rounds": "rounds"}


@dataclass(frozen=True)
class Subject:
    """Images with one kind of damage, and what they are scored by.

    Attributes:
        case: the damage.
        truth: (B, 3, H, W) in [0, 1].
        how: A.
        y: the measurements.
        extractor: the scoring network.
        reference: of real images.
        grey: whether the three channels are one.
    """

    case: Case
    truth: Tensor
    how: Measurement
    y: Tensor
    extractor: Extractor
    reference: Reference
    grey: bool

    @cached_property
    def start(self) -> Tensor:
        """What the rounds begin with: (B, 3, H, W) in [0, 1]."""
        return self.how.start(self.y).clamp(0, 1)

    @cached_property
    def start_psnr(self) -> Tensor:
        """Its PSNR: (B,), in dB."""
        return psnr(self.start, self.truth)

    def row(self, dataset: Tensor, **about: object) -> Row:
        """The scores of what was made of the measurements: (B, 3, H, W) in [0, 1]."""
        distance = frechet(self.extractor(to_uint8(dataset))["embedding"], self.reference, self.extractor)
        reached = psnr(dataset, self.truth)
        return {
            "task": self.case.task,
            **about,
            "psnr_db": rounded(reached.mean().item()),
            "frechet": rounded(distance),
            "misfit": rounded(misfit(self.how, dataset, self.y).mean().item()),
            "worse": rounded((reached < self.start_psnr).double().mean().item()),
        }

    def baseline(self, parameter: float, what: str) -> Row:
        """The scores of the baseline."""
        dataset = self.case.compared(self.how, self.y, parameter, grey=self.grey)
        return self.row(dataset, what=what, parameter=parameter)

    def restored(self, model: api.Model, angle_deg: float, weight: float, counts: tuple[int, ...]) -> list[Row]:
        """The scores after each of some numbers of rounds."""
        rounds = restore(model, self.y, self.how, count=max(counts), noise_deg=angle_deg, weight=weight, seed=SEED)
        about = {"what": "restored", "noise_deg": angle_deg, "lambda": weight}
        return [self.row(x, rounds=k, **about) for k, x in enumerate(rounds, start=1) if k in counts]


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="experiments.restoration", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="fashion-mnist", help="default %(default)s")
    parser.add_argument("--scorer", default=SCORER, help="network that scores; default %(default)s")
    parser.add_argument("--count", type=int, default=200, help="images, of each part; default %(default)s")
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    file, page = given.out / "restoration.json", given.out / "restoration.md"
    try:
        name, found = measure(given)
        results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        results[name] = found
        write_text(file, json.dumps(results, indent=1) + "\n")
        if page.exists():
            write_text(page, with_tables(page.read_text(encoding="utf-8"), results))
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(file)


def measure(given: Namespace) -> tuple[str, dict[str, Any]]:
    """The model's name, and what was found; JSON-able.

    Args:
        given: model, scorer, count, data.
    """
    model = api.load(given.model, dtype="float32")
    extractor = open_extractor(given.scorer)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line("experiments.restoration"),
        "machine": machine(),
    }
    about |= {"model_sha256": model.sha256, "scorer": given.scorer, "scikit_image": skimage.__version__}
    parts = {}
    for seed, split in enumerate(("train", "test")):
        dataset = open_dataset(model.recipe.data, model.recipe.model.image_size, split=split, root=given.data)
        tell(f"features of {split}ing images" if split == "train" else "features of test images")
        reference = reference_of(dataset, extractor, split)
        parts[split] = [subject(case, dataset, given.count, seed, extractor, reference) for case in CASES]
    tasks = {}
    for tried, final in zip(parts["train"], parts["test"], strict=True):
        found = search(model, tried)
        tasks[tried.case.task] = found | {"results": compare(model, final, found)}
    return model.name, about | {"count": len(parts["test"][0].truth), "tasks": tasks}


def subject(
    case: Case, dataset: ImageSet, count: int, seed: int, extractor: Extractor, reference: Reference
) -> Subject:
    """Images of a set, drawn at random, and damaged."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SEED))
    truth = to_float(dataset.gather(order[:count]))
    how = case.measurement(len(truth), truth.shape[-1], seed)
    grey = bool((truth == truth[:, :1]).all())
    y = measured(truth, how, sigma=case.sigma, grey=grey, seed=seed)
    return Subject(case, truth, how, y, extractor, reference, grey)


def search(model: api.Model, tried: Subject) -> dict[str, Any]:
    """Settings on training images: all that were tried, and those chosen."""
    case = tried.case
    tell(f"{case.task}: the baseline")
    baselines = [tried.baseline(parameter, case.baseline) for parameter in case.parameters]
    sweep: list[Row] = []
    for angle in case.angles_deg:
        for weight in case.weights:
            tell(f"{case.task}: {angle:g} degrees, lambda {weight:g}")
            sweep += tried.restored(model, angle, weight, ROUNDS)
    chosen = choose(sweep, max(row["psnr_db"] for row in baselines) - MARGIN_DB)
    return {
        "damage": case.damage,
        "baselines": baselines,
        "sweep": sweep,
        "chosen": {key: chosen[key] for key in ("lambda", "noise_deg", "rounds")},
    }


def choose(rows: list[Row], floor_db: float) -> Row:
    """The lowest Frechet distance among rows of at least this PSNR that make few images worse.

    Of equal ones that of fewer rounds; where there is none, the row of the highest PSNR.
    """
    near = [row for row in rows if row["psnr_db"] >= floor_db and row["worse"] <= MAX_WORSE]
    if not near:
        return max(rows, key=lambda row: row["psnr_db"])
    return min(near, key=lambda row: (row["frechet"], row["rounds"]))


def compare(model: api.Model, final: Subject, found: dict[str, Any]) -> list[Row]:
    """Scores on test images: damaged, by the baseline at its best in either respect, restored."""
    tell(f"{final.case.task}: test images")
    tuned = {
        "PSNR": max(found["baselines"], key=lambda row: row["psnr_db"])["parameter"],
        "Frechet distance": min(found["baselines"], key=lambda row: row["frechet"])["parameter"],
    }
    rows = [final.row(final.start, what="damaged")]
    for aim, parameter in tuned.items():
        if len(found["baselines"]) == 1:
            rows.append(final.baseline(parameter, final.case.baseline))
            break
        rows.append(final.baseline(parameter, f"{final.case.baseline}, {parameter:g} for its {aim}"))
    chosen = found["chosen"]
    return rows + final.restored(model, chosen["noise_deg"], chosen["lambda"], (chosen["rounds"],))


def with_tables(text: str, results: dict[str, Any]) -> str:
    """A page's text with all models' tables between its marks, "<!-- NAME: command -->" and "<!-- end of NAME -->"."""
    for name, told in (("results", _results), ("settings", _settings)):
        begin, end = f"<!-- {name}: python -m experiments.restoration -->\n", f"<!-- end of {name} -->"
        body = "\n\n".join(f"`{model}`, {told(found)}" for model, found in results.items())
        text = put_between(text, begin, end, f"\n{body}\n\n")
    return text


def _results(found: dict[str, Any]) -> str:
    rows = [row | {"misfit": round(row["misfit"], 2)} for task in found["tasks"].values() for row in task["results"]]
    return (
        f"{found['count']} test images, scored by `{found['scorer']}` ({found['date']}, `{found['command']}`, "
        f"scikit-image {found['scikit_image']}):\n\n{table(rows, RESULTS)}"
    )


def _settings(found: dict[str, Any]) -> str:
    rows = [{"task": task} | one["chosen"] for task, one in found["tasks"].items()]
    return f"chosen on {found['count']} training images:\n\n{table(rows, CHOSEN)}"


if __name__ == "__main__":
    main()
