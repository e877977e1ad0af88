"""The command `spherectl`: its options, its commands in order, its exit codes.

Importing this file must stay quick: help and completion load neither torch nor pydantic, so every command imports
what it needs in its body.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from spherectl.cli import (
    console,
    doctor,
    edit,
    encode,
    evaluate,
    export,
    failures,
    features,
    interpolate,
    plot,
    recipes,
    restore,
    sample,
    streams,
    train,
    zoo,
)
from spherectl.places import place

COMPLETE = "_SPHERECTL_COMPLETE"  # set by the shell when it asks for completions
ORDER = (
    *("train", "sample", "edit", "interpolate", "restore", "encode"),
    *("evaluate", "export", "plot", "zoo", "recipes", "features", "doctor"),
)

EXAMPLES = """
Examples:

spherectl sample --class sneaker --count 16 --out sneakers.png
spherectl train recipes/fashion-mnist.toml
spherectl edit a.png b.png --harmonize
spherectl restore small.png --task upscale --scale 4
spherectl evaluate --steps 1,2,4 --out report/
spherectl export --format onnx --out graphs/
spherectl plot training runs/fashion-mnist
spherectl train folder32 --data my/images
spherectl recipes show imagenet256
spherectl doctor
"""


class Group(TyperGroup):
    """A command of commands, whose own options are flags alone."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Its options. Typer's own flags come without a default, and pydantic would be loaded to convert that None."""
        params = super().get_params(ctx)
        for flag in params:
            flag.default = bool(flag.default)
        return params


class Command(TyperCommand):
    """A command whose paths are those of `places.place`, whatever the option."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Arguments that are left over; paths are made of what was typed, of which a Path would lose half."""
        typed = {} if ctx.resilient_parsing else self.make_parser(ctx).parse_args(args=list(args))[0]
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            name, what = (
                parameter.name or "",
                parameter.opts[0] if parameter.param_type_name == "option" else "The path",
            )
            value = ctx.params.get(name)
            if isinstance(value, Path) and name in typed:
                ctx.params[name] = place(typed[name], what)
            elif isinstance(value, list) and any(isinstance(one, Path) for one in value):
                ctx.params[name] = [place(one, what) for one in typed[name]]
        return rest


class Root(Group):
    """The group of all commands; every way out of a command passes its `main`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        """Names in the order of `ORDER`, not groups first."""
        return sorted(self.commands, key=ORDER.index)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run a command line and exit: with its code, or with that of the error it ended by."""
        given, debug = _take_debug(sys.argv[1:] if args is None else list(args))
        with streams.prepared(debug=debug):
            sys.exit(self._run(given, debug, complete_var, windows_expand_args, extra))

    def _run(
        self, given: list[str], debug: bool, complete_var: str | None, windows_expand_args: bool, extra: dict[str, Any]
    ) -> int:
        """The command line's exit code, once everything is told."""
        try:
            with _raw_values() if COMPLETE in os.environ else contextlib.nullcontext():
                result = super().main(
                    given,
                    prog_name="spherectl",
                    complete_var=complete_var,
                    standalone_mode=False,
                    windows_expand_args=windows_expand_args,
                    **extra,
                )
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, a sentence tells it
            return failures.report(error, debug=debug)
        return result if isinstance(result, int) else 0


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        from spherectl import __version__

        console.show(f"spherectl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error as well.")] = False,
) -> None:
    """Sphere Encoder image models: train them, sample from them, edit and measure with them."""


app.command()(train.train)
app.command()(sample.sample)
app.command()(edit.edit)
app.command()(interpolate.interpolate)
app.command()(restore.restore)
app.command()(encode.encode)
app.command()(evaluate.evaluate)
app.command()(export.export)
app.add_typer(plot.app, name="plot", cls=Group)
app.add_typer(zoo.app, name="zoo", cls=Group)
app.add_typer(recipes.app, name="recipes", cls=Group)
app.add_typer(features.app, name="features", cls=Group)
app.command()(doctor.doctor)
for commands in (app, plot.app, zoo.app, recipes.app, features.app):
    for one in commands.registered_commands:
        one.cls = Command


def main() -> None:
    """Entry point of the installed command and of `python -m spherectl`."""
    app()


def _take_debug(args: list[str]) -> tuple[list[str], bool]:
    """Arguments without --debug, and whether it was there: an error asks for it, so it may stand anywhere."""
    end = args.index("--") if "--" in args else len(args)
    return [arg for arg in args[:end] if arg != "--debug"] + args[end:], "--debug" in args[:end]


@contextlib.contextmanager
def _raw_values() -> Iterator[None]:
    """Leave values as typed, while the shell asks for completions: to convert them Typer would load pydantic."""
    kinds = (TyperOption, TyperArgument)
    for kind in kinds:
        kind.process_value = lambda _self, _ctx, value: value  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for kind in kinds:
            del kind.process_value
