"""`spherectl sample`: generate images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl import sampling
from spherectl.cli import console, models, options, reproduce
from spherectl.cli.encode import decode
from spherectl.errors import UsageError
from spherectl.timing import Stopwatch, process_age

if TYPE_CHECKING:
    from torch import Tensor

    from spherectl.api import Generated, Model
    from spherectl.classes import UnknownClassError
    from spherectl.recipe import SampleSpec
    from spherectl.settings import Settings
    from spherectl.zoo import Entry, Found


DECODING = ("class_", "steps", "batch", "dtype", "weights")  # what --latents leaves to choose

# What --profile tells apart: keys in JSON, and what they mean.
STAGES = {
    "startup": "start-up and imports",
    "model": "finding and loading the model",
    "noise": "noise",
    "encoder": "encoder",
    "decoder": "decoder",
    "sampling": "rest of sampling",
    "writing": "encoding and writing files",
    "hash": "hash of the model file",
    "rest": "all else",
}


def sample(
    ctx: typer.Context,
    model: options.Model = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="Number, name (or its beginning), range 0-3, several with commas, all, none; repeatable.",
            show_default="all in turn",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option("--count", "-n", min=1, max=options.MAX_COUNT, help="Images in all, spread evenly over classes."),
    ] = 16,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guide: options.Guide = None,
    noise: options.Noise = None,
    strength: options.Strength = None,
    noise_deg: options.NoiseDeg = None,
    seed: options.Seed = 0,
    batch: options.Batch = 64,
    dtype: options.Dtype = options.DtypeName.AUTO,
    weights: options.Weights = options.WeightsName.EMA,
    device: options.Device = None,
    threads: options.Threads = None,
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Sample through torch.compile, on CUDA as CUDA graphs: for many images."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help=".png: a grid; .npz: arrays for the ADM suite; else a folder of PNGs. Replaces what is there.",
            show_default="a new name",
        ),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="PNG", help="Make this image of ours again, from its provenance.")
    ] = None,
    latents: Annotated[
        Path | None,
        typer.Option(
            "--latents", metavar="FILE", help="Decode what `spherectl encode` wrote; --steps adds rounds without noise."
        ),
    ] = None,
    provenance: options.Provenance = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say on stderr what took how long; with --json in the document too.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Generate images: one forward pass each, or a few rounds that sharpen them.

    Examples:
    spherectl sample --count 40 --out grid.png

    spherectl sample --class sneaker,bag --steps 1 --seed 7 --out images/

    spherectl sample --like grid.png --out again.png
    """
    watch = Stopwatch("rest", dict.fromkeys(STAGES, 0.0) | {"startup": process_age()})
    with watch.stage("startup"):
        import torch

        from spherectl import api
        from spherectl.classes import UnknownClassError
        from spherectl.output import check_target, write_named
        from spherectl.provenance import describe
        from spherectl.settings import load_settings

    settings = load_settings()
    where = device or settings.device
    if threads:
        torch.set_num_threads(threads)
    if latents is not None:
        _refuse_beside(ctx, "latents", *DECODING, why="decodes images as they were encoded")
        check_target(out or Path("decoded.png"))
        loaded = models.load(model, settings, dtype=dtype, weights=weights, device=device)
        how = {"class_": class_, "steps": steps, "batch": batch, "out": out, "as_json": as_json}
        decode(latents, loaded, **how, with_provenance=provenance)  # type: ignore[arg-type]
        return
    if like is not None:
        _refuse_beside(ctx, "like", why="takes everything from the image")
        reproduce.remake(like, model, settings, device=where, out=out, as_json=as_json, with_provenance=provenance)
        return
    check_target(out or Path("samples.png"))
    changes: dict[str, Any] = {"steps": steps, "guidance": guidance, "guide": guide}
    changes |= {"noise": noise, "strength": strength, "noise_deg": noise_deg}

    def prepare(found: Found) -> tuple[Model, SampleSpec, Iterator[Generated]]:
        console.say(found.reason)
        loaded = api.load_found(found, device=where, dtype=dtype.value, weights=weights.value, compile=compile_)
        chosen = api.sample_settings(loaded, **changes)
        loaded.watch = watch if profile else None
        run = api.generate(loaded, count, classes=class_, seed=seed, batch=batch, **chosen.model_dump())
        return loaded, chosen, run

    with watch.stage("model"):
        try:
            loaded, chosen, batches = prepare(models.find(model, settings))
        except UnknownClassError as error:
            loaded, chosen, batches = prepare(_another_model(error, settings))
    console.say(f"settings: {sampling.described(chosen)}, seed {seed}, {loaded.precision}")

    def about(indices: Tensor, labels: Tensor | None, columns: int | None) -> dict[str, Any]:
        with watch.stage("hash"):
            _ = loaded.sha256  # kept for `describe`, which asks for it
        run = {"seed": seed, "batch": batch, "count": count}
        return describe(loaded, chosen, indices=indices, labels=labels, columns=columns, **run)

    with console.progress("sampling", count, "images") as bar, watch.stage("writing"):
        watched = _watched(batches, bar, watch)
        target, files = write_named(out, f"{loaded.name}-seed{seed}", watched, count, about if provenance else None)
    if target.is_dir() and (others := sum(1 for _ in target.glob("*.png")) - files) > 0:
        console.say(f"{target} holds {others} other PNG file{'s' * (others > 1)} as well")
    facts: dict[str, Any] = {}
    if as_json:
        with watch.stage("hash"):
            facts = {"model": loaded.name, "sha256": loaded.sha256, "seed": seed, **chosen.model_dump()}
    if profile:
        seconds = watch.seconds()
        _say_profile(seconds)
        facts["profile"] = {key: round(taken, 4) for key, taken in (*seconds.items(), ("total", sum(seconds.values())))}
    if as_json:
        console.show_json({"out": str(target), "files": files, **facts})
    else:
        console.show_file(target)


def _refuse_beside(ctx: typer.Context, option: str, *more: str, why: str) -> None:
    """Refuse options that would be ignored beside another one."""
    allowed = {option, "model", "device", "threads", "out", "provenance", "as_json", *more}
    given = [
        max(parameter.opts, key=len)
        for parameter in ctx.command.params
        if parameter.name not in allowed
        and (source := ctx.get_parameter_source(str(parameter.name))) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"--{option} {why}; leave out {', '.join(given)}.")


def _watched(batches: Iterator[Generated], bar: Callable[[int], None], watch: Stopwatch) -> Iterator[Generated]:
    done = 0
    while True:
        with watch.stage("sampling"):
            batch = next(batches, None)
        if batch is None:
            return
        done += len(batch.images)
        bar(done)
        yield batch


def _say_profile(seconds: dict[str, float]) -> None:
    """A table of what took how long; images are compressed while others are sampled; "writing" is what remains."""
    total = sum(seconds.values())
    console.say_rows(
        [
            {"stage": stage, "seconds": f"{taken:.3f}", "share": f"{taken / total:.0%}"}
            for stage, taken in (*((STAGES[key], taken) for key, taken in seconds.items()), ("total", total))
        ],
        right=("seconds", "share"),
    )


def _another_model(error: UnknownClassError, settings: Settings) -> Found:
    """A model of the zoo that has the class which the model at hand has not, fetched if a person at a terminal agrees.

    Raises:
        UsageError: there is none, or it is not fetched: says how to get one.
    """
    from spherectl import zoo

    entry = _entry_with_class(error.asked, settings)
    if entry is None:
        raise error
    needs = f"{error.known}; {error.asked} needs a {entry.classes}-class model"
    if entry.state(settings) == "here":
        raise UsageError(f"{needs}: `--model {entry.name}` is one.")
    if entry.is_remote and sys.stdin.isatty() and sys.stderr.isatty():
        size = f"{entry.size / 1e6:.0f} MB" if entry.size else "of unknown size"
        console.say(f"{needs}.")
        what = f"Fetch {entry.name} ({size}, licence {entry.licence}) from {entry.source}?"
        if typer.confirm(what, err=True):
            with console.progress(f"fetching {entry.name}", entry.size, "B") as bar:
                zoo.fetch(entry, settings, bar, trust=True, accept=True)
            return zoo.find_model(entry.name, settings)
    train = f", or `spherectl train recipes/{entry.recipe}.toml`" if entry.recipe else ""
    raise UsageError(f"{needs}: `spherectl zoo fetch {entry.name}`{train}.")


def _entry_with_class(asked: str, settings: Settings) -> Entry | None:
    """The smallest model of the zoo with a class of that number, range or known name; one that is here first."""
    from spherectl import zoo
    from spherectl.classes import names_of, parse_classes

    def has_class(entry: Entry) -> bool:
        names = names_of(entry.recipe or entry.name, entry.classes)
        try:
            return bool(parse_classes([asked], names, entry.classes, entry.name))
        except UsageError:
            return False

    models = [entry for entry in zoo.index(settings).values() if entry.kind == "model" and entry.classes]
    fitting = [entry for entry in models if has_class(entry)]
    return min(fitting, key=lambda entry: (entry.state(settings) != "here", entry.classes), default=None)
