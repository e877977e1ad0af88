"""What editing does to garments: seams, distances and classes, scored by a network that no loss has seen.

Writes docs/editing.json, and the tables between the marks of docs/editing.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scoring import SCORER, frechet, reference_of
from benchmarks.speed import ROOT, command_line
from benchmarks.tables import Columns, Row, counted, put_between, table
from benchmarks.timing import machine, rounded, tell
from spherectl import api
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float, to_uint8
from spherectl.editing.rounds import harmonise, rounds
from spherectl.editing.stitching import layout_mask, stitch
from spherectl.errors import SpherectlError
from spherectl.evaluation.extractors import Extractor, open_extractor
from spherectl.evaluation.reference import Reference
from spherectl.files import write_text
from spherectl.images import psnr

ROUNDS = 8
NOISES_DEG = (0.0, 30.0, 45.0, 60.0)  # of harmonising
ANGLES_DEG = (0.0, 20.0, 40.0, 50.0, 60.0, 70.0, 80.0)  # of changing the class
GUIDANCES = (1.0, 2.0, 3.0, 4.0)
CLASS_ROUNDS = 4
FEATHER = 8  # pixels of the blend that harmonising is compared with
BANDS = (8, 16, 28)  # pixels about the seam outside which rounds may change nothing
BAND_DEG, BAND_ROUNDS = 60.0, 4  # noise and number of those
SILHOUETTE = 0.1  # a pixel brighter than that is part of the garment
SEED = 0

LEFT_OUT = ("3 ", "5 ", "6 ", "7 ")  # rounds that the JSON alone has
SEAMS: Columns = {
    "what": "images",
    "seam": "gradient at the seam",
    "frechet": "Frechet distance",
    "psnr_db": "PSNR of the halves, dB",
}
CHANGES: Columns = {
    "noise_deg": "noise, degrees",
    "guidance": "guidance",
    "accuracy": "new class",
    "iou": "IoU with the image",
}


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="experiments.editing", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="fashion-mnist", help="default %(default)s")
    parser.add_argument("--count", type=int, default=200, help="pairs, and images; default %(default)s")
    parser.add_argument("--data", type=Path, help="the data set, where it is not in its usual place")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    try:
        results = measure(given)
        write_text(given.out / "editing.json", json.dumps(results, indent=1) + "\n")
        page = given.out / "editing.md"
        if page.exists():
            write_text(page, with_tables(page.read_text(encoding="utf-8"), results))
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out / "editing.json")


def measure(given: Namespace) -> dict[str, Any]:
    """Both experiments; JSON-able.

    Args:
        given: model, count, data.
    """
    model = api.load(given.model, dtype="float32")
    test = open_dataset(model.recipe.data, model.recipe.model.image_size, split="test", root=given.data)
    extractor = open_extractor(SCORER)
    reference = reference_of(test, extractor)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(SEED))
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line("experiments.editing"),
        "machine": machine(),
    }
    about |= {"model": model.name, "model_sha256": model.sha256, "scorer": SCORER, "count": given.count}
    harmony = harmonising(model, test, order[: 2 * given.count].reshape(2, -1), extractor, reference)
    return about | {
        "harmonise": harmony,
        "classes": changing(model, test, order[: given.count], extractor),
    }


@torch.no_grad()
def harmonising(
    model: api.Model, test: ImageSet, pairs: Tensor, extractor: Extractor, reference: Reference
) -> dict[str, Any]:
    """Stitched pairs after each round, beside what they are compared with.

    Args:
        model, extractor: that draws, that scores.
        test: real images.
        pairs: (2, n) numbers of them.
        reference: of all of them.
    """
    a, b = (to_float(test.gather(numbers)) for numbers in pairs)
    mask = layout_mask("left-right", a.shape[-1])
    stitched = stitch(a, b, mask)
    own = model.reconstruct(a), model.reconstruct(b)
    real_seams = torch.cat([seam(one) for one in own])
    low, high = real_seams.quantile(torch.tensor([0.25, 0.75])).tolist()

    def row(what: str, dataset: Tensor) -> Row:
        distance = frechet(extractor(to_uint8(dataset))["embedding"], reference, extractor)
        return {
            "what": what,
            "seam": rounded(seam(dataset).median().item()),
            "frechet": rounded(distance),
            "psnr_db": rounded(psnr(dataset, stitched).mean().item()),
        }

    rows = [
        row("stitched", stitched),
        row(f"blended over {FEATHER} pixels", stitch(a, b, feathered(mask, FEATHER))),
        row("the images' own reconstructions, stitched", stitch(*own, mask)),
    ]
    for angle in NOISES_DEG:
        tell(f"harmonising with {angle:g} degrees")
        _, *after = harmonise(model, a, b, mask, count=ROUNDS, noise_deg=angle, seed=SEED)
        for number, dataset in enumerate(after, start=1):
            noise = f", {angle:g}° of noise" if angle else ""
            rows.append(row(f"{counted(number, 'round')}{noise}", dataset))
    for width in BANDS:
        tell(f"harmonising within {width} pixels")
        for number, dataset in enumerate(confined(model, a, b, mask, width), start=1):
            what = f"{counted(number, 'round')}, {BAND_DEG:g}° of noise, within {width} pixels"
            rows.append(row(what, dataset))
    return {"seam_band": [rounded(low), rounded(high)], "rows": rows}


def confined(model: api.Model, a: Tensor, b: Tensor, mask: Tensor, width: int) -> Iterator[Tensor]:
    """Rounds that see the whole image and change only a band about the seam: its edges fade into the sources.

    Args:
        model: that draws.
        a, b: (B, 3, H, W) in [0, 1].
        mask: (H, W); 1 shows a.
        width: of the band in pixels.
    """
    ramp = feathered(mask, width)
    kept, stitched = (2 * ramp - 1).abs(), stitch(a, b, mask)
    dataset = stitch(a, b, ramp)
    for number in range(1, BAND_ROUNDS + 1):
        (drawn,) = rounds(model, dataset, count=1, noise_deg=BAND_DEG, seed=SEED, first_round=number)
        dataset = stitch(stitched, drawn, kept)
        yield dataset


def seam(dataset: Tensor) -> Tensor:
    """Mean absolute step across the middle column: (B, 3, H, W) to (B,)."""
    middle = dataset.shape[-1] // 2
    return (dataset[..., middle] - dataset[..., middle - 1]).abs().mean((1, 2))


def feathered(mask: Tensor, width: int) -> Tensor:
    """A mask whose edge is a ramp of `width` pixels: (H, W)."""
    padded = F.pad(mask[None, None], (width // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, width, stride=1)[0, 0, : mask.shape[0], : mask.shape[1]]


@torch.no_grad()
def changing(model: api.Model, test: ImageSet, numbers: Tensor, extractor: Extractor) -> dict[str, Any]:
    """The frontier: how often the new class is seen, against how much of the old silhouette is left.

    Args:
        model, extractor: that draws, that scores.
        test: real images.
        numbers: (n,) of those that are changed, each to another class.
    """
    dataset, own = to_float(test.gather(numbers)), test.labels[numbers]
    generator = torch.Generator().manual_seed(SEED)
    classes = len(test.class_names)
    target = (own + torch.randint(1, classes, own.shape, generator=generator)) % classes
    others = to_float(test.gather(torch.stack([_one_of(test.labels, label, generator) for label in target.tolist()])))
    rows: list[Row] = []
    for angle in ANGLES_DEG:
        tell(f"changing classes with {angle:g} degrees")
        for scale in GUIDANCES:
            *_, drawn = rounds(model, dataset, target, count=CLASS_ROUNDS, noise_deg=angle, guidance=scale, seed=SEED)
            rows.append({
                "noise_deg": angle,
                "guidance": scale,
                "accuracy": rounded(accuracy(drawn, target, extractor)),
                "iou": rounded(iou(drawn, dataset).mean().item()),
            })  # fmt: skip
    return {
        "rounds": CLASS_ROUNDS,
        "accuracy_real": rounded(accuracy(to_float(test.gather(numbers)), own, extractor)),
        "iou_of_random_images": rounded(iou(others, dataset).mean().item()),
        "rows": rows,
    }


def accuracy(dataset: Tensor, labels: Tensor, extractor: Extractor) -> float:
    """Share of images that the network gives these labels."""
    found = extractor(to_uint8(dataset))["logits"].argmax(1)
    return float((found == labels).double().mean())


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of silhouettes: (B, 3, H, W) in [0, 1] twice to (B,)."""
    first, second = (dataset.mean(1) > SILHOUETTE for dataset in (one, other))
    return (first & second).sum((1, 2)) / (first | second).sum((1, 2)).clamp(min=1)


def _one_of(labels: Tensor, label: int, generator: torch.Generator) -> Tensor:
    """Number of a random image of a class."""
    here = (labels == label).nonzero()[:, 0]
    return here[torch.randint(len(here), (), generator=generator)]


def with_tables(text: str, results: dict[str, Any]) -> str:
    """A page's text with today's tables between its marks, "<!-- NAME: command -->" and "<!-- end of NAME -->"."""
    told = {
        "harmonise": table([row for row in results["harmonise"]["rows"] if row["what"][:2] not in LEFT_OUT], SEAMS),
        "classes": table(results["classes"]["rows"], CHANGES),
    }
    for name, rows in told.items():
        begin, end = f"<!-- {name}: python -m experiments.editing -->\n", f"<!-- end of {name} -->"
        text = put_between(text, begin, end, f"\n{rows}\n\n")
    low, high = results["harmonise"]["seam_band"]
    facts = {"seam-band": f"{low} to {high}", "class-real": f"{results['classes']['accuracy_real']:.0%}"}
    facts["iou-random"] = results["classes"]["iou_of_random_images"]
    for name, fact in facts.items():
        text = re.sub(rf"(?<=<!-- {name} -->)[^<]*(?=<!-- -->)", str(fact), text)
    return text


if __name__ == "__main__":
    main()
