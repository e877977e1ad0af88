"""The images of docs/evidence.md: some of trained models, some of the numbers of docs/evidence.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.style
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.tables import Row, counted
from benchmarks.timing import tell
from experiments import samples
from experiments.baselines import DiffusionModel, Vae, VaeAutoencoder, load_baseline, load_vae
from experiments.evidence.judge import SEED, Judge
from experiments.evidence.measures import MODES
from experiments.evidence.results import best_vae, find, run_of, samples_of, vaes
from spherectl import api
from spherectl.data.decode import open_image
from spherectl.editing.interpolation import class_weights, line_shares, path
from spherectl.evaluation.autoencoders import Autoencoder, SphereAutoencoder
from spherectl.evaluation.posterior import posterior_hole
from spherectl.evaluation.projection import clouds
from spherectl.images import grid, save_png
from spherectl.model import seeding
from spherectl.model.geometry import spherify
from spherectl.plots.figures import COLOURS, STYLE, save
from spherectl.plots.posterior import plot_posterior_hole
from spherectl.plots.samples import sample_rows
from spherectl.plots.uniformity import plot_uniformity, write_page
from spherectl.zoo import MODEL_FILE

ACROSS = 10  # images in a row
ROWS = "rows"  # folder of each Sphere Encoder's four-step samples, from the same noise; kept, for models are not
STRIPS, FRAMES = 4, 11
POINTS = 1000


def draw_images(results: dict[str, Any], work: Path, judge: Judge, out: Path, device: str) -> dict[str, str]:
    """Draw all for which the models and the numbers are there; others that were drawn before stay.

    Args:
        results: of the JSON.
        work: run folders.
        judge: of images.
        out: folder; made if need be.
        device: where models draw.

    Returns:
        File names by image.
    """
    done = {row["name"] for row in results["runs"] if (work / row["name"] / MODEL_FILE).is_file()}
    drawn: dict[str, str] = dict(results.get("images", {}))

    def draw(name: str, make: Callable[[Path], None], *needed: str) -> None:
        if done.issuperset(needed):
            tell(f"drawing {name}")
            make(out / name)
            drawn[Path(name).stem] = name

    def sphere(name: str) -> api.Model:
        return api.load(work / name, dtype="float32", device=device)

    def vae() -> Vae:
        return load_vae(work / best_vae(results)["name"], device=device)

    def diffusion(target: Path) -> None:
        model = load_baseline(work / "diffusion", device=device)
        assert isinstance(model, DiffusionModel)
        save_png(target, samples.rows(model, (1, 4, 10, 50), ACROSS), None)

    rows = {row["name"]: out / ROWS / f"{row['name']}.png" for row in results["runs"] if row["kind"] == "sphere"}
    (out / ROWS).mkdir(parents=True, exist_ok=True)
    for name in done.intersection(rows):
        save_png(rows[name], sample_rows(sphere(name), (4,), ACROSS, guidance=1.0), None)
    draw("steps.png", lambda target: _steps(sphere("base"), target), "base")
    draw("modes.png", lambda target: _modes(sphere("base"), target), "base")
    draw("diffusion.png", diffusion, "diffusion")
    if kept := [path for path in rows.values() if path.is_file()]:
        draw("variants.png", lambda target: _variants(kept, target))
    draw("interpolation.png", lambda target: _strips(sphere("base"), target), "base")
    draw("guidance.png", lambda target: _guidance(results, target), "base")
    draw("transitions.png", lambda target: _transitions(results, target), "base")
    draw("cost.png", lambda target: _cost(results, target), "base", "diffusion")
    if vaes(results):
        needed = ("base", best_vae(results)["name"])
        draw("posterior-hole.png", lambda target: _hole(sphere("base"), vae(), judge, target), *needed)
        draw("uniformity.png", lambda target: _uniformity(sphere("base"), vae(), judge, target), *needed)
    return drawn


def _steps(model: api.Model, target: Path) -> None:
    save_png(target, sample_rows(model, (1, 2, 4), ACROSS, guidance=1.0), None)


def _modes(model: api.Model, target: Path) -> None:
    """Four-step samples, a row for each mode of noise, in the order of the table."""
    settings = [setting for setting in MODES if setting["steps"] == 4]
    rows = [api.generate(model, ACROSS, seed=SEED, **setting) for setting in settings]
    save_png(target, grid(torch.cat([part.images for row in rows for part in row]), columns=ACROSS), None)


def _hole(model: api.Model, vae: Vae, judge: Judge, target: Path) -> None:
    both: list[Autoencoder] = [SphereAutoencoder(model), VaeAutoencoder(vae)]
    asked: dict[str, Any] = {"count": judge.count, "seed": SEED, "resamples": 0}
    plot_posterior_hole(posterior_hole(both, judge.train, judge.reference, judge.extractor, **asked), target)


def _uniformity(model: api.Model, vae: Vae, judge: Judge, target: Path) -> None:
    found = clouds(model, VaeAutoencoder(vae), judge.test, count=min(POINTS, judge.count), draws=19, seed=SEED)
    plot_uniformity(found, judge.test.class_names, target)
    about = f"{len(found[0].labels):,} test images, projected to three dimensions by one random Gaussian matrix."
    write_page(found, judge.test.class_names, target.with_suffix(".html"), about=about)


def _strips(model: api.Model, target: Path) -> None:
    """Paths between noise of neighbouring classes, one step."""
    noise = seeding.noise(SEED, seeding.INITIAL, torch.arange(2 * STRIPS), model.network.latent_shape)
    ends, frames = spherify(noise), []
    for strip in range(STRIPS):
        labels = (2 * strip % model.num_classes, (2 * strip + 1) % model.num_classes)
        weights = class_weights(labels, line_shares(FRAMES), model.num_classes)
        frames.append(model.decode(path(ends[2 * strip], ends[2 * strip + 1], FRAMES), weights).cpu())
    save_png(target, grid(torch.cat(frames), columns=FRAMES), None)


def _variants(rows: list[Path], target: Path) -> None:
    """Rows of samples, each beside the name of its file."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(8.0, 0.62 * len(rows) + 0.3), layout="constrained")
        for axes, path in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
            with open_image(path) as row:
                axes.imshow(row, interpolation="nearest")
                axes.set_yticks([row.height / 2], [path.stem])
            axes.set_xticks([])
            axes.set_anchor("E")
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        save(figure, target)


def _guidance(results: dict[str, Any], target: Path) -> None:
    """Frechet distance over the guidance scale, at one and at four steps."""
    rows = samples_of(results, "base", noise="shared", strength="constant")

    def of(steps: int) -> list[Row]:
        chosen = [row for row in rows if row["setting"]["steps"] == steps]
        return sorted(chosen, key=lambda row: row["setting"]["guidance"])

    series = {counted(steps, "step"): of(steps) for steps in (1, 4)}
    _lines(series, lambda row: row["setting"]["guidance"], "guidance scale", target)


def _cost(results: dict[str, Any], target: Path) -> None:
    """Frechet distance over milliseconds an image, of all kinds of model."""
    diffusion = run_of(results, "diffusion")["samples"]
    series = {"sphere, 1, 2 and 4 steps": [find(results, "base", steps=steps) for steps in (1, 2, 4)]}
    for solver, told in (("ddim", "diffusion, DDIM"), ("dpm", "diffusion, DPM-Solver++")):
        chosen = [row for row in diffusion if row["setting"]["solver"] == solver]
        series[f"{told}, {chosen[0]['setting']['steps']} to {chosen[-1]['setting']['steps']} steps"] = chosen
    if vaes(results):
        series["VAE, prior"] = best_vae(results)["samples"]
    _lines(series, lambda row: row["ms_per_image"], "milliseconds an image", target, logarithmic=True)


def _lines(
    series: dict[str, list[Row]], along: Callable[[Row], float], label: str, target: Path, *, logarithmic: bool = False
) -> None:
    """Frechet distances with their intervals along something, a line each."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for colour, (name, rows) in zip(COLOURS, series.items(), strict=False):
            x, y = [along(row) for row in rows], [row["frechet"] for row in rows]
            ends = [[row["frechet"] - row["low"] for row in rows], [row["high"] - row["frechet"] for row in rows]]
            spread = [[max(one, 0.0) for one in side] for side in ends]
            axes.errorbar(x, y, yerr=spread, marker="o", markersize=4, capsize=2, color=colour, label=name)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.set_ylabel("Frechet distance, 95% intervals")
        axes.legend(frameon=False)
        save(figure, target)


def _transitions(results: dict[str, Any], target: Path) -> None:
    """Mean share of the second class along paths, beside a crossfade."""
    found = run_of(results, "base")["interpolation"]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for colour, (name, told) in zip(
            COLOURS, (("path", "path on the sphere"), ("crossfade", "crossfade of its ends")), strict=False
        ):
            curve = found[name]["curve"]
            axes.plot([place / (len(curve) - 1) for place in range(len(curve))], curve, color=colour, label=told)
        axes.set_xlabel("share of the path")
        axes.set_ylabel("share of the second class")
        axes.legend(frameon=False)
        save(figure, target)
