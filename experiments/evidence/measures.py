"""What is measured of a trained model of each kind.

Letters: n images, L entries of a latent, F frames of a path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import Row
from benchmarks.timing import measured_once, rounded
from experiments.baselines import DiffusionModel, VaeAutoencoder, load_baseline, load_vae
from experiments.diffusion import Solver
from experiments.evidence.judge import BATCH, SEED, Judge
from spherectl import api
from spherectl.data.transforms import to_float, to_uint8
from spherectl.editing.interpolation import class_weights, line_shares, path
from spherectl.evaluation.autoencoders import Autoencoder, SphereAutoencoder
from spherectl.evaluation.bootstrap import interval, mean_replicates, multiplicities
from spherectl.evaluation.embeddings import Part, real_draw
from spherectl.evaluation.metrics import PSNR_CAP_DB
from spherectl.evaluation.posterior import posterior_hole
from spherectl.evaluation.projection import DRAWS, latents, through_training
from spherectl.evaluation.scoring import Samples
from spherectl.evaluation.uniformity import MAX_POINTS, uniformity
from spherectl.images import psnr
from spherectl.model import seeding
from spherectl.model.geometry import spherify
from spherectl.model.sphere import parameter_count

PLAIN: dict[str, Any] = {"steps": 1, "guidance": 1.0, "noise": "shared", "strength": "constant"}
STEPS = (1, 2, 4)
MODES = [
    {**PLAIN, "steps": steps, "noise": noise, "strength": strength}
    for steps in (2, 4)
    for noise in ("shared", "fresh")
    for strength in ("constant", "decaying")
]
GUIDANCES = (1.2, 1.4, 2.0, 3.0)
GUIDED = [{**PLAIN, "steps": steps, "guidance": scale} for steps in (1, 4) for scale in GUIDANCES]
SOLVED: tuple[tuple[Solver, int], ...] = (
    *(("ddim", steps) for steps in (1, 2, 4, 10, 20, 50)),
    *(("dpm", steps) for steps in (4, 10, 20)),
)  # fmt: skip

FRAMES = 33  # F
PAIRS = 100  # of ends with different classes
CROSSED = (0.1, 0.9)  # share of the second class between which a path is in transition


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images that are drawn when they are gathered: those of `draw`, by their numbers."""

    count: int
    draw: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return self.count

    def gather(self, indices: Tensor) -> Tensor:
        """Those of the numbers (B,)."""
        return to_uint8(self.draw(indices))


def of_sphere(run: Path, judge: Judge, *, whole: bool, draws: int = DRAWS, device: str = "auto") -> Row:
    """Of a Sphere Encoder: samples, columns of the posterior hole, uniformity.

    Args:
        run: its folder.
        judge: of images.
        whole: the modes of noise, the guidance curve, the points of training and the interpolation too.
        draws: of uniform points.
        device: where to draw.
    """
    model = api.load(run, dtype="float32", device=device)
    asked = [{**PLAIN, "steps": steps} for steps in STEPS]
    if whole:
        asked += [one for one in MODES if one not in asked] + (GUIDED if model.num_classes else [])
    row: Row = {"parameters": parameter_count(model.network)}
    row["samples"] = [_of_setting(model, setting, judge) for setting in asked]
    row |= _of_latents(SphereAutoencoder(model), judge, draws)
    if whole:
        count = min(MAX_POINTS, judge.count)
        stages = through_training(run, model, judge.test, count=count, draws=draws, seed=SEED)
        row["training"] = [{"images_seen": images, **_measures(measured.overall)} for images, measured in stages]
        row["interpolation"] = transitions(model, judge) if model.num_classes else None
    return row


def of_vae(run: Path, judge: Judge, *, draws: int = DRAWS, device: str = "auto") -> Row:
    """Of a VAE: samples of its prior, columns of the posterior hole, uniformity of its means."""
    model = load_vae(run, device=device)
    labels = model.spread(judge.count)
    drawn = Drawn(judge.count, lambda i: model.sample(i, None if labels is None else labels[i], seed=SEED))
    row: Row = {"parameters": parameter_count(model.network)}
    row["samples"] = [{"setting": {"steps": 1}, "networks": 1, **_timed(drawn), **judge.score(drawn, labels)}]
    return row | _of_latents(VaeAutoencoder(model), judge, draws)


def of_diffusion(run: Path, judge: Judge, *, device: str = "auto") -> Row:
    """Of a diffusion model: samples by both solvers."""
    model = load_baseline(run, device=device)
    assert isinstance(model, DiffusionModel)
    labels = model.spread(judge.count)
    rows = []
    for solver, steps in SOLVED:

        def draw(i: Tensor, solver: Solver = solver, steps: int = steps) -> Tensor:
            chosen = None if labels is None else labels[i]
            return model.sample(i, chosen, steps=steps, solver=solver, seed=SEED)

        drawn = Drawn(judge.count, draw)
        setting = {"steps": steps, "solver": solver}
        rows.append({"setting": setting, "networks": steps, **_timed(drawn), **judge.score(drawn, labels)})
    return {"parameters": parameter_count(model.network), "samples": rows}


def _of_setting(model: api.Model, setting: dict[str, Any], judge: Judge) -> Row:
    spec = api.sample_settings(model, **setting)
    labels = api.spread_classes(model, judge.count, None)
    samples = Samples(model, spec, SEED, labels, judge.count, "round")
    networks = (2 * spec.steps - 1) * (1 if spec.guidance == 1 else 2)
    return {"setting": setting, "networks": networks, **_timed(samples), **judge.score(samples, labels)}


def _timed(shown: Any) -> Row:
    """Milliseconds of an image, drawn a hundred at once."""
    some = torch.arange(min(BATCH, len(shown)))
    return {"ms_per_image": rounded(1000 * measured_once(lambda: shown.gather(some)) / len(some))}


def _of_latents(model: Autoencoder, judge: Judge, draws: int) -> Row:
    """What both kinds of autoencoder have in common."""
    (hole,) = posterior_hole(
        [model], judge.train, judge.reference, judge.extractor, count=judge.count, seed=SEED, resamples=judge.resamples
    )
    columns = {}
    for column in hole.columns:
        low, high = column.interval or (column.frechet_distance, column.frechet_distance)
        columns[column.name] = {
            "frechet": rounded(column.frechet_distance), "low": rounded(low), "high": rounded(high),
        }  # fmt: skip
    draw = real_draw(judge.test, judge.count, SEED)
    labels = judge.test.labels[draw.indices]
    points = latents(model, _first(draw, MAX_POINTS), labels[:MAX_POINTS])
    return {
        "hole": columns,
        "psnr_db": rounded(_psnr(model, draw, labels)),
        "uniformity": _measures(uniformity(points, draws=draws, seed=SEED)),
    }


def _first(draw: Part, most: int) -> Part:
    return Part(draw.whole, draw.indices[:most])


def _psnr(model: Autoencoder, draw: Part, labels: Tensor) -> float:
    """Mean over images of what comes back of them, in bytes."""
    values = []
    for numbers in torch.arange(len(draw)).split(BATCH):
        pixels = draw.gather(numbers)
        mean, _ = model.posterior(to_float(pixels), labels[numbers])
        values.append(psnr(pixels, to_uint8(model.decode(mean, labels[numbers]))).clamp(max=PSNR_CAP_DB))
    return float(torch.cat(values).mean())


def _measures(found: Any) -> Row:
    """The four measures of `Uniformity`, rounded, with n and L."""
    kept: Row = {"count": found.count, "dimension": found.dimension}
    for name, value in asdict(found).items():
        if isinstance(value, dict):
            kept[name] = {key: rounded(one) for key, one in value.items()}
    return kept


# x(t) = D(slerp(v0, v1, t), (1 - t) y0 + t y1), one step
def transitions(model: api.Model, judge: Judge) -> Row:
    """How fast the class changes along paths between noise of two classes, beside a crossfade of the paths' ends.

    Returns:
        For each: `width`, the median over pairs of the share of the path between 10% and 90% of the second class (of
        both classes' probabilities); `curve`, (F,) the mean share of the second class along the path. `difference`:
        the mean over pairs of the path's width less the crossfade's, with its 95% interval.
    """
    pairs = min(PAIRS, judge.count)
    classes = model.num_classes
    first = torch.arange(pairs) % classes
    second = (first + 1 + torch.arange(pairs) // classes % (classes - 1)) % classes
    noise = seeding.noise(SEED, seeding.INITIAL, torch.arange(2 * pairs), model.network.latent_shape)
    ends = spherify(noise)
    shares = torch.linspace(0, 1, FRAMES)
    curves: dict[str, list[Tensor]] = {"path": [], "crossfade": []}
    for pair in range(pairs):
        labels = (int(first[pair]), int(second[pair]))
        weights = class_weights(labels, line_shares(FRAMES), classes)
        frames = model.decode(path(ends[2 * pair], ends[2 * pair + 1], FRAMES), weights).cpu()
        faded = torch.stack([torch.lerp(frames[0], frames[-1], float(t)) for t in shares])
        for name, shown in (("path", frames), ("crossfade", faded)):
            both = judge.probabilities(to_uint8(shown))[:, labels]  # (F, 2)
            curves[name].append(both[:, 1] / both.sum(1).clamp(min=1e-12))
    widths = {name: torch.tensor([width(one) for one in some]).double() for name, some in curves.items()}
    less = widths["path"] - widths["crossfade"]
    spread = interval(float(less.mean()), mean_replicates(less, multiplicities(pairs, judge.resamples, SEED)))
    ends_of = zip(("value", "low", "high"), (float(less.mean()), *spread), strict=True)
    row: Row = {"pairs": pairs, "difference": {name: rounded(value) for name, value in ends_of}}
    for name, some in curves.items():
        mean = torch.stack(some).mean(0)
        row[name] = {"width": rounded(float(widths[name].median())), "curve": [rounded(float(one)) for one in mean]}
    return row


def width(curve: Tensor) -> float:
    """Share of a path (F,) between the last frame below 10% and the first one after it above 90%; 1 without such."""
    low, high = CROSSED
    below = (curve <= low).nonzero()[:, 0]
    start = int(below[-1]) if len(below) else 0
    above = (curve[start:] >= high).nonzero()[:, 0]
    stop = start + int(above[0]) if len(above) else len(curve) - 1
    return (stop - start) / (len(curve) - 1) if len(below) and len(above) else 1.0
