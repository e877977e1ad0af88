"""`spherectl train`: train a recipe, go on with a run, or try one out."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, image_files, models, options, signals
from spherectl.errors import SpherectlError, UsageError
from spherectl.registry import NETWORKS, SPHERE

if TYPE_CHECKING:
    from spherectl.model.formats.weights import Package
    from spherectl.recipe import Recipe
    from spherectl.settings import Settings
    from spherectl.training.loop import Outcome

FIRST_BYTES = 1 << 20  # of a download: what its first report counts


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a TOML file.")],
    data: options.Data = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, as in optim.lr=2e-4; repeatable."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="PATH", help="The run folder.", show_default="runs/NAME")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Start from the weights of this model (fine-tuning).")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="3 real steps at the recipe's resolution with the smallest networks.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how large the training is; train nothing, write nothing.")
    ] = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Train a model. The same command again goes on where it stopped; Ctrl-C saves first.

    Under torchrun the same command trains on several GPUs and machines.

    Examples:
    spherectl train fashion-mnist

    spherectl train folder32 --data my/images --set run.length_epochs=200

    spherectl train recipes/imagenet256.toml --smoke

    torchrun --nproc-per-node 8 -m spherectl train recipes/imagenet256.toml --run-dir runs/x
    """
    options.prepare_for_training()
    import torch

    from spherectl import recipe as recipes
    from spherectl import tables, zoo
    from spherectl.data.datasets import open_dataset
    from spherectl.model.devices import choose_device
    from spherectl.processes import joined
    from spherectl.settings import load_settings
    from spherectl.training.loop import train as train_loop
    from spherectl.training.plan import resolve
    from spherectl.training.plan import smoke as smoke_of

    settings = load_settings()
    if threads:
        torch.set_num_threads(threads)
    where = choose_device(device or settings.device)
    wanted = recipes.load(zoo.find_recipe(recipe), tables.parse_overrides(set_ or []))
    if smoke:
        if wanted.loss.perceptual == "lpips+convnext":
            console.say("smoke: without the perceptual part, whose networks would have to be fetched")
        wanted = smoke_of(wanted)
    if dry_run:
        _dry_run(wanted, data, where)
        return
    with joined() as processes, console.only(processes.is_first):
        with processes.first_goes_first():
            dataset = open_dataset(wanted.data, wanted.model.image_size, root=data, progress=console.say)
            resolved = resolve(wanted, dataset, where)
            start, parent = _start(from_, resolved, settings)
        folder = run_dir or settings.runs / resolved.name
        console.say(f"data: {dataset.name}, {len(dataset):,} images, {len(dataset.class_names) or 'no'} classes")
        if processes.is_first:
            image_files.tell_left_out(dataset)
        together = f", {processes.world} processes ({resolved.run.parallel})" if processes.world > 1 else ""
        console.say(f"run: {folder} on {where.type} in {resolved.run.dtype}, batch {resolved.run.batch_size}{together}")
        with (
            signals.stop_signals() as stopped,
            console.progress(resolved.name, resolved.run.length_images, "images") as bar,
        ):
            outcome = train_loop(
                resolved,
                dataset,
                folder,
                device=where,
                processes=processes,
                start=start,
                parent=parent,
                on_step=_Narration(bar, resolved),
                fetching=_tell_fetching,
                should_stop=lambda: bool(stopped),
            )
        _tell_end(outcome, resolved.model.kind, settings)
    if not outcome.finished:
        raise typer.Exit(signals.EXIT_CODES[stopped[0] if stopped else signal.SIGTERM])


def _tell_fetching(done: int, total: int, _: str = "", /) -> None:
    """A line for each network of the loss that is fetched, when its first bytes are here."""
    if done <= FIRST_BYTES:
        console.say(f"fetching a network of the loss ({total / 1e6:.0f} MB)")


class _Narration:
    """Turns a step's metrics into a bar's note: loss and speed, both smoothed over some twenty steps."""

    def __init__(self, bar: Any, recipe: Recipe) -> None:
        self._bar, self._total = bar, recipe.run.length_images
        self._loss = self._speed = 0.0
        self._steps = 0

    def __call__(self, line: dict[str, float]) -> None:
        self._steps += 1
        share = max(1 / self._steps, 0.05)
        self._loss += share * (line["loss"] - self._loss)
        self._speed += share * (line["images_per_s"] - self._speed)
        left_s = max((self._total or 0) - line["images_seen"], 0) / max(self._speed, 1e-9)
        note = f"loss {self._loss:.4f}, {self._speed:.1f} images/s, {_duration(left_s)} left"
        self._bar(min(int(line["images_seen"]), self._total or 0), note=note)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _start(model: str | None, recipe: Recipe, settings: Settings) -> tuple[Package | None, str]:
    """The package to start from, and its hash."""
    if model is None:
        return None, ""
    from spherectl.api import model_hash
    from spherectl.training.finetune import start_from

    found = models.find(model, settings)
    start = start_from(found.path, found.name, recipe)
    anew = f"; {start.anew} tensors start anew" if start.anew else ""
    console.say(f"from: {found.path}, {start.share:.1%} of the weights{anew}")
    return start.package, model_hash(found.path)


def _tell_end(outcome: Outcome, kind: str, settings: Settings) -> None:
    path, seen = outcome.run.path, f"{outcome.images_seen:,} images"
    if outcome.run.unreadable.exists():
        console.say(f"some images could not be read, and others took their place: {outcome.run.unreadable} names them")
    if not outcome.finished:
        console.say(f"saved at {seen} in {path}; go on with: {shlex.join(['spherectl', *sys.argv[1:]])}")
    elif outcome.steps_now == 0:
        console.say(f"{path} is finished: {seen} seen; --run-dir another folder trains anew")
    else:
        console.say(f"finished: {seen} seen; samples in {outcome.run.samples}")
    if outcome.finished and NETWORKS[kind].sampling:
        command = NETWORKS[kind].sampling.format(shlex.quote(str(path)))
        picked = kind == SPHERE.name and _is_picked(outcome.run.model, settings)
        console.say(f"sample from it: {'spherectl sample' if picked else command}")
    console.show_file(outcome.run.model)


def _is_picked(model: Path, settings: Settings) -> bool:
    """Whether `sample` without --model takes this one."""
    from spherectl import zoo

    try:
        here = settings.model_copy(update={"offline": True})  # a question is no reason to fetch anything
        return zoo.find_model(None, here).path.absolute() == model.absolute()
    except SpherectlError:
        return False


def _dry_run(recipe: Recipe, data: str | None, where: Any) -> None:
    """Print the size of a training; where the set is not here, that of a training on the published one."""
    from spherectl.data.datasets import open_dataset
    from spherectl.data.sets import find_record
    from spherectl.training.plan import plan, resolve, resolve_for

    try:
        dataset = open_dataset(recipe.data, recipe.model.image_size, root=data, download=False)
    except UsageError as error:
        count = find_record(recipe.data.kind).train_images
        known = count is not None or recipe.run.length_images is not None
        if data is not None or recipe.model.num_classes == "auto":
            raise
        console.say(error.message)
        resolved = resolve_for(recipe, count or 1, recipe.model.classes, where)
        about = f"not here; {count:,} images as published" if count else "not here"
    else:
        known, resolved = True, resolve(recipe, dataset, where)
        image_files.tell_left_out(dataset)
        about = f"{len(dataset):,} images of {dataset.name}, {len(dataset.class_names) or 'no'} classes"
        if dataset.shard_counts:
            about += "; in shards fetched over HTTP, by which order and resume go"
    size, spec = plan(resolved), resolved.model
    facts = {
        "recipe": resolved.name,
        "parameters": f"{size.parameters:,} ({NETWORKS[spec.kind].networks}, size {spec.size})",
        "tokens": f"{size.tokens:,} of {spec.patch} x {spec.patch} px",
        "latent size": f"{size.latent_size:,} ({spec.channels_per_token} channels a token)",
        "memory, about": f"{size.memory_bytes / 1e9:.1f} GB in {resolved.run.dtype}, without the perceptual networks",
        "data": about,
        "images": f"{size.images:,}" if known else f"{recipe.run.length_epochs:g} epochs",
        "steps": f"{size.steps:,} of {resolved.run.batch_size}" if known else "not known without the data",
    }
    console.show_rows([{"what": what, "value": value} for what, value in facts.items()])
