"""`spherectl zoo`: the models and feature networks that come with spherectl or are known to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, options

if TYPE_CHECKING:
    from spherectl.settings import Settings
    from spherectl.zoo import Entry

app = typer.Typer(no_args_is_help=True, help="Models and feature networks: list, show, fetch and verify.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="An entry of the zoo; `spherectl zoo ls` lists them.")]


@app.command()
def ls(as_json: options.Json = False) -> None:
    """List what the zoo has, here or to fetch."""
    from spherectl.settings import load_settings
    from spherectl.zoo import index

    settings = load_settings()
    entries = index(settings).values()
    if as_json:
        console.show_json([_facts(entry, settings) for entry in entries])
        return
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "px": str(entry.image_size),
            "classes": str(entry.classes or "none"),
            "size": _size(entry, settings),
            "licence": entry.licence,
            "where": entry.state(settings) + (", default" if entry.default else ""),
        }
        for entry in entries
    ]
    console.show_rows(rows, right=("px", "classes", "size"))


@app.command()
def show(name: Name, as_json: options.Json = False) -> None:
    """Show an entry: its facts, what its file says of itself, and its card."""
    from spherectl.settings import load_settings
    from spherectl.zoo import find_entry, read_header

    settings = load_settings()
    entry = find_entry(name, settings)
    path = entry.path(settings)
    header = read_header(path) if path and entry.state(settings) == "here" else {}
    card = entry.card.read_text(encoding="utf-8") if entry.card.is_file() else ""
    if as_json:
        console.show_json({**_facts(entry, settings), "header": header, "card": card})
        return
    for key, value in {**_facts(entry, settings), **_words(header)}.items():
        if value not in (None, "", [], False):
            console.show(f"{key}: {_text(value)}")
    if card:
        console.show("")
        _show_markdown(card)


@app.command()
def fetch(name: Name) -> None:
    """Fetch the file of a remote entry into the cache, and verify it."""
    from spherectl.settings import load_settings
    from spherectl.zoo import fetch as fetch_file
    from spherectl.zoo import find_entry

    settings = load_settings()
    entry = find_entry(name, settings)
    with console.progress(f"fetching {name}", entry.bytes, "B") as bar:
        path = fetch_file(entry, settings, bar)
    console.say(f"{name}: licence {entry.licence}")
    console.show(str(path))


@app.command()
def verify() -> None:
    """Compare every file that is here with the index: size and SHA-256."""
    from spherectl.errors import FileError
    from spherectl.settings import load_settings
    from spherectl.zoo import index
    from spherectl.zoo import verify as compare

    settings = load_settings()
    broken: list[str] = []
    for entry in index(settings).values():
        problem = compare(entry, settings)
        console.show(f"{entry.name}: {problem or ('ok' if entry.state(settings) == 'here' else 'not here')}")
        broken += [entry.name] if problem else []
    if broken:
        raise FileError(f"Not as the index says: {', '.join(broken)}.", "Install spherectl again, or fetch them again.")


def _facts(entry: Entry, settings: Settings) -> dict[str, Any]:
    """What the index says, and where the file is."""
    path = entry.path(settings)
    return {**entry.model_dump(mode="json"), "state": entry.state(settings), "path": str(path) if path else None}


def _words(header: dict[str, Any]) -> dict[str, Any]:
    """The short facts of a file's header that the index does not have; tables are for --json."""
    return {key: value for key, value in header.items() if key in ("class_names", "images_seen", "data", "accuracy")}


def _size(entry: Entry, settings: Settings) -> str:
    path = entry.path(settings)
    size = entry.bytes or (path.stat().st_size if path and path.is_file() else None)
    return f"{size / 1e6:.1f} MB" if size else "unknown"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def _show_markdown(text: str) -> None:
    """A card: laid out for a person's screen, as it is written for everything else."""
    from rich.markdown import Markdown

    if console.is_terminal():
        console.show(Markdown(text))
    else:
        typer.echo(text, nl=False)
