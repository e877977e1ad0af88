"""`spherectl zoo`: the models and feature networks that come with spherectl or are known to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherectl.cli import console, options
from spherectl.cli.zoo_own import add, push

if TYPE_CHECKING:
    from spherectl.settings import Settings
    from spherectl.zoo import Entry
    from spherectl.zoo.download import Download

app = typer.Typer(
    no_args_is_help=True, help="Models and feature networks: list, show, fetch, verify, remove; add and push your own."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="An entry of the zoo; `spherectl zoo ls` lists them.")]
NameOrHub = Annotated[
    str,
    typer.Argument(
        metavar="NAME|hf:USER/REPO", help="An entry of the zoo, or hf:user/repo, with /folder or @revision if need be."
    ),
]


@app.command()
def ls(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask for indexes that have an address again, not once a day.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List what the zoo has, here or to fetch, with the indexes of the setting zoo_index and what came from the hub.

    Examples:
    spherectl zoo ls

    SPHERECTL_ZOO_INDEX=https://example.org/zoo/index.toml spherectl zoo ls --refresh
    """
    from spherectl.settings import load_settings
    from spherectl.zoo import index
    from spherectl.zoo.receipts import hub_receipts

    settings = load_settings()
    entries = index(settings, refresh=refresh).values()
    from_hub = hub_receipts(settings)
    if as_json:
        console.show_json([*(_facts(entry, settings) for entry in entries), *from_hub])
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
    rows += [
        {
            "name": receipt["name"],
            "kind": "model",
            "px": "",
            "classes": "",
            "size": f"{receipt['bytes'] / 1e6:.1f} MB",
            "licence": receipt["licence"],
            "where": "here",
        }
        for receipt in from_hub
    ]
    console.show_rows(rows, right=("px", "classes", "size"))


@app.command()
def show(name: NameOrHub, as_json: options.Json = False) -> None:
    """Show an entry: its facts, what its file says of itself, what was seen when it was fetched, and its card."""
    from spherectl.model.formats.header import read_header
    from spherectl.settings import load_settings
    from spherectl.zoo import find_entry, read_card
    from spherectl.zoo.receipts import load_receipt
    from spherectl.zoo.repositories import PREFIX

    settings = load_settings()
    if name.startswith(PREFIX):
        _show_of_the_hub(name, settings, as_json)
        return
    entry = find_entry(name, settings)
    path = entry.path(settings)
    header = read_header(path) if path and path.is_file() else {}
    receipt = load_receipt(f"zoo/{name}", settings) if entry.is_remote else {}
    card = read_card(entry)
    if as_json:
        console.show_json({**_facts(entry, settings), "header": header, "receipt": receipt, "card": card})
        return
    seen = {key: receipt.get(key) for key in ("revision", "accepted")}
    for key, value in {**_facts(entry, settings), **_words(header), **seen}.items():
        if value not in (None, "", [], False):
            console.show(f"{key}: {_text(value)}")
    if card:
        console.show("")
        console.show_markdown(card)


@app.command()
def fetch(
    name: NameOrHub,
    trust: Annotated[
        bool, typer.Option("--trust", help="Take files whose SHA-256 nobody has stated; what comes is noted.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept-licence", help="Accept a licence that is non-free or unknown, without a question.")
    ] = False,
) -> None:
    """Fetch a model into the cache, verify it, and convert it if it is a published checkpoint.

    A licence that is not free, or not known, is asked for once. A download that breaks off is continued by the same
    command.

    Examples:
    spherectl zoo fetch sphere-l-imagenet --trust

    spherectl zoo fetch hf:user/repo@v1 --accept-licence
    """
    from spherectl import zoo
    from spherectl.settings import load_settings
    from spherectl.zoo.download import fetch_download, find_download, find_hub_download
    from spherectl.zoo.repositories import PREFIX, parse_name

    settings = load_settings()
    if name.startswith(PREFIX):
        download = find_hub_download(parse_name(name), settings)
    else:
        entry = zoo.find_entry(name, settings)
        if not zoo.needs_fetching(entry, settings):
            path = zoo.fetch(entry, settings)
            console.say(f"{name}: licence {entry.licence}")
            console.show_file(path)
            return
        download = find_download(entry, settings)
    may_ask = trust or not download.needs_trust  # else it is refused anyway
    agreed = accept or (may_ask and _agrees(download, settings))
    with console.progress(f"fetching {name}", download.bytes, "B") as bar:
        path = fetch_download(download, settings, bar, trust=trust, accept=agreed)
    if path.is_dir():
        from spherectl.model.formats.conversion import NoModelError, converted
        from spherectl.zoo.receipts import remove

        console.say(f"{name}: converting the checkpoint into one file")
        try:
            path = converted(path, settings)
        except NoModelError:  # nothing of it stays, nor what was noted of it
            remove(download.place, settings, forget=True)
            raise
    revision = f", commit {download.revision[:12]}" if download.revision else ""
    console.say(f"{name}: licence {download.licence}{revision}")
    console.show_file(path)


@app.command()
def verify() -> None:
    """Compare every file that is here with the index, or with its receipt: size and SHA-256."""
    from spherectl import zoo
    from spherectl.errors import FileError
    from spherectl.settings import load_settings
    from spherectl.zoo.receipts import hub_receipts, verify_fetched

    settings = load_settings()
    broken: list[str] = []
    for entry in zoo.index(settings).values():
        problem = zoo.verify(entry, settings)
        console.show(f"{entry.name}: {problem or ('ok' if entry.state(settings) == 'here' else 'not here')}")
        broken += [entry.name] if problem else []
    for receipt in hub_receipts(settings):
        problem = verify_fetched(receipt["place"], settings)
        console.show(f"{receipt['name']}: {problem or 'ok'}")
        broken += [receipt["name"]] if problem else []
    if broken:
        raise FileError(f"Not as the index says: {', '.join(broken)}.", "Install spherectl again, or fetch them again.")


@app.command()
def rm(
    name: NameOrHub,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget what was seen and accepted too, as if it had never been fetched.")
    ] = False,
) -> None:
    """Remove what was fetched of a model; what comes with spherectl, or lies in an index's own folder, stays.

    Example: spherectl zoo rm hf:user/repo
    """
    from spherectl import zoo
    from spherectl.errors import UsageError
    from spherectl.settings import load_settings
    from spherectl.zoo.receipts import remove
    from spherectl.zoo.repositories import PREFIX, hub_place, parse_name

    settings = load_settings()
    if name.startswith(PREFIX):
        place = hub_place(parse_name(name))
    else:
        entry = zoo.find_entry(name, settings)
        if not entry.is_remote:
            where = "lies beside its index" if entry.file else "is only known of"
            raise UsageError(f"{name} was not fetched, it {where}: there is nothing to remove from the cache.")
        place = f"zoo/{name}"
    freed = remove(place, settings, forget=forget)
    console.say(f"{name}: {freed:,} bytes freed" if freed else f"{name}: nothing was here")


app.command()(add)
app.command()(push)


def _show_of_the_hub(name: str, settings: Settings, as_json: bool) -> None:
    """What was noted of a model when it came from the hub, and what its file says of itself."""
    from spherectl.errors import UsageError
    from spherectl.model.formats.header import read_header
    from spherectl.zoo.entries import cached_path
    from spherectl.zoo.receipts import load_receipt
    from spherectl.zoo.repositories import hub_place, parse_name

    place = hub_place(parse_name(name))
    receipt, path = load_receipt(place, settings), cached_path(place, settings)
    if not receipt:
        raise UsageError(f"{name} was never fetched.", f"`spherectl zoo fetch {name}` brings it.")
    header = read_header(path) if path.is_file() else {}
    facts = {**receipt, "state": "here" if path.exists() else "remote", "path": str(path)}
    if as_json:
        console.show_json({**facts, "header": header})
        return
    shown = ("name", "revision", "licence", "accepted", "bytes", "state", "path")
    for key, value in {**{key: facts.get(key) for key in shown}, **_words(header)}.items():
        if value not in (None, "", []):
            console.show(f"{key}: {_text(value)}")


def _agrees(download: Download, settings: Settings) -> bool:
    """Show a licence that was not accepted yet, and ask for it where a person can answer."""
    answering = sys.stdin.isatty() and sys.stderr.isatty() and not settings.offline
    if not answering or not download.needs_acceptance:
        return False
    stated = "is not known" if download.licence == "unknown" else f"is {download.licence}"
    console.say(
        f"The licence of {download.name}, from {download.source}, {stated}. What it permits is for you to find out."
    )
    return typer.confirm("Accept it, and fetch the model?", err=True)


def _facts(entry: Entry, settings: Settings) -> dict[str, Any]:
    """What the index says, and where the file is."""
    path = entry.path(settings)
    return {**entry.model_dump(mode="json"), "state": entry.state(settings), "path": str(path) if path else None}


def _words(header: dict[str, Any]) -> dict[str, Any]:
    """The short facts of a file's header that the index does not have; tables are for --json."""
    return {key: value for key, value in header.items() if key in ("class_names", "images_seen", "data", "accuracy")}


def _size(entry: Entry, settings: Settings) -> str:
    path = entry.path(settings)
    size = path.stat().st_size if path and path.is_file() else entry.size
    return f"{size / 1e6:.1f} MB" if size else "unknown"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)
