"""`spherectl recipes`: list, show and check recipes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spherectl.cli import console, failures, options

app = typer.Typer(no_args_is_help=True, help="List, show and check recipes: what to train, on what, how.")

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a TOML file.")]


@app.command()
def ls(as_json: options.Json = False) -> None:
    """List the recipes that come with spherectl.

    Example: spherectl recipes ls
    """
    from spherectl import recipe
    from spherectl.settings import packaged

    paths = sorted(packaged("recipes").glob("*.toml"), key=lambda path: path.stem)
    rows = [{"name": path.stem, **_facts(recipe.load(path))} for path in paths]
    if as_json:
        console.show_json(rows)
        return
    texts = [{head: "" if value is None else str(value) for head, value in row.items()} for row in rows]
    console.show_rows(texts, right=("px", "batch"))


@app.command()
def show(name: Recipe) -> None:
    """Print a recipe with its comments, as a start for one of your own.

    Example: spherectl recipes show folder32 > mine.toml
    """
    from spherectl.errors import FileError
    from spherectl.files import read_text
    from spherectl.zoo import find_recipe

    path = find_recipe(name)
    try:
        text = read_text(path)
    except OSError as error:
        raise FileError(f"Cannot read the recipe {path}: {error.strerror}.") from None
    console.show_document(text)


@app.command()
def check(
    names: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Names of recipes, or TOML files.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key first, as `train` does.")
    ] = None,
) -> None:
    """Check recipes without training: every unknown key and every bad value at once.

    Example: spherectl recipes check mine.toml --set optim.lr=2e-4
    """
    from spherectl import recipe, tables
    from spherectl.errors import SpherectlError
    from spherectl.zoo import find_recipe

    overrides = tables.parse_overrides(changes or [])
    worst = 0
    for name in names:
        try:
            recipe.load(find_recipe(name), overrides)
        except SpherectlError as error:
            worst = max(worst, failures.report(error, debug=False))
        else:
            console.show(f"{name}: ok")
    raise typer.Exit(worst)


def _facts(spec: Any) -> dict[str, Any]:
    """What the list says of a recipe beside its name."""
    model, run = spec.model, spec.run
    size = model.size if model.decoder_size in (None, model.size) else f"{model.size}+{model.decoder_size}"
    length = f"{run.length_epochs:g} epochs" if run.length_images is None else f"{run.length_images:,} images"
    return {
        "px": model.image_size,
        "size": size,
        "classes": {"auto": "the data's", 0: "none"}.get(model.num_classes, model.num_classes),
        "batch": run.batch_size,
        "length": length,
        "summary": spec.summary,
    }
