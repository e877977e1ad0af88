"""Putting a model on the Hugging Face hub: its file, a model card and a grid of samples, in one commit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spherectl.errors import FileError, UsageError
from spherectl.model.formats.header import read_header
from spherectl.settings import Settings, load_settings
from spherectl.shown import listed, printable, quoted
from spherectl.zoo import hub
from spherectl.zoo.download import FREE, licence_id
from spherectl.zoo.entries import MODEL_SUFFIX, check_repo
from spherectl.zoo.receipts import load_receipt, remove, save_receipt
from spherectl.zoo.repositories import PREFIX, HubName, hub_place, parse_name

MODEL, CARD, GRID = "model.safetensors", "README.md", "samples.png"
TASK = "unconditional-image-generation"


def push(
    file: Path,
    repo: str,
    *,
    private: bool | None = None,
    grid: bytes | None = None,
    words: str = "",
    licence: str = "",
    message: str = "",
    token: str | bool | None = None,
    create_pr: bool | None = None,
    bars: bool = False,
) -> str:
    """Upload a model file with a card, and create the repository if there is none.

    A card that is in the repository already stays as it is.

    Args:
        file: a model file of ours.
        repo: user/repo, or hf:user/repo[@branch]; without a user it is one of the account's own.
        private: whether a new repository is hidden from others; None: as the account's default is.
        grid: a PNG of samples, shown in the card.
        words: the body of the card; empty: what the file's header says.
        licence: of the weights, for the card; empty: as the header says.
        message: of the commit; empty: the model's name.
        token: of the account; None: HF_TOKEN, or that of `hf auth login`.
        create_pr: open a pull request in place of a commit on the branch.
        bars: let huggingface_hub show its progress bars on stderr.

    Returns:
        The address of the commit.

    Raises:
        UsageError: offline, nobody is logged in, or the repository may not be written, or is public and must not be.
        FileError: the file is not a model.
        SpherectlError: no answer.
    """
    from huggingface_hub import CommitOperationAdd

    settings = load_settings()
    name = check_push(repo, settings, token)
    if file.suffix != MODEL_SUFFIX:
        raise FileError(f"{file} is not a model file: expected a {MODEL_SUFFIX} file.")
    header = read_header(file) | ({"licence": licence} if licence else {})
    api = hub.api(token)
    with hub.asking(name, writing=True), _bars(shown=bars):
        api.create_repo(name.repo, private=private, exist_ok=True)
        if private and not api.model_info(name.repo).private:
            raise UsageError(f"{name} is there already, and public: nothing was uploaded.", "Name another repository.")
        if name.revision != "main":
            api.create_branch(name.repo, branch=name.revision, exist_ok=True)
        files: dict[str, bytes | Path] = {MODEL: file}
        if grid is not None:
            files[GRID] = grid
        if not api.file_exists(name.repo, CARD, revision=name.revision):
            text = card(header, name.repo.partition("/")[2], str(name), words, grid=grid is not None)
            files[CARD] = text.encode()
        commit = api.create_commit(
            name.repo,
            [CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message=message or f"{header.get('name') or name.repo.partition('/')[2]}, by spherectl",
            revision=name.revision,
            create_pr=create_pr,
        )
    # What was fetched from there before is another model now; and who put it there accepts the licence.
    place = hub_place(name)
    accepted = _licence(header)[0] if CARD in files else load_receipt(place, settings).get("accepted", "")
    remove(place, settings, forget=True)
    save_receipt(place, settings, name=str(name), accepted=accepted)
    return str(commit.commit_url)


def check_push(repo: str, settings: Settings, token: str | bool | None = None) -> HubName:
    """What a repository to write to is called, where a write could succeed; raises as `push` does."""
    is_bare = re.fullmatch(r"[A-Za-z0-9][\w.-]*", repo)
    if not is_bare and not repo.startswith(PREFIX):
        try:
            check_repo(repo)
        except ValueError as error:
            raise UsageError(f"E{str(error)[1:]}.") from None
    if why := hub.offline(settings):
        raise UsageError(f"{quoted(repo)} is not written, because {why} says to stay offline.")
    from huggingface_hub import get_token

    if token in (None, True) and get_token() is None:
        raise UsageError("To write to the hub takes a token, and there is none.", "`hf auth login` asks for it.")
    if is_bare:
        with hub.asking(HubName(repo), writing=True):
            repo = f"{hub.api(token).whoami()['name']}/{repo}"
    name = parse_name(repo if repo.startswith(PREFIX) else f"{PREFIX}{repo}")
    if name.folder:
        raise UsageError(f"A model is put into a repository of its own: expected hf:{name.repo}, got {name}.")
    return name


def card(header: dict[str, Any], title: str, model: str, words: str = "", *, grid: bool = False) -> str:
    """A model card in Markdown, with the metadata by which the hub lists and finds models.

    Args:
        header: of the model file.
        title: what the card calls the model.
        model: what `spherectl.load` calls it.
        words: the body of the card; empty: what the header says.
        grid: whether there is a grid of samples beside it.
    """
    heading, _, body = (words or _body(header, title)).strip().partition("\n")
    image = f"\n![Samples]({GRID})\n" if grid else ""
    use = f"""
## Use

With spherectl installed:

    spherectl sample --model {model}

```python
import spherectl

model = spherectl.load("{model}")
```
"""
    text = printable(f"{heading}\n{image}{body}\n{use}", lines=True)
    return f"---\n{_metadata(header, title)}\n---\n\n{text}"


def _metadata(header: dict[str, Any], title: str) -> str:
    """The YAML at the head of a card."""
    from huggingface_hub import EvalResult, ModelCardData

    licence, licence_name = _licence(header)
    data = str(header.get("data", ""))
    datasets = [data] if re.fullmatch(r"[\w.-]{1,100}", data) else None
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=data or "unknown",
            dataset_name=data or "unknown",
            metric_type=re.sub(r"[^a-z0-9]+", "-", score["metric"].lower()).strip("-") or "score",
            metric_name=score["metric"],
            metric_value=score["value"],
        )
        for score in header.get("scores", [])
    ]
    return ModelCardData(
        license=licence,
        license_name=licence_name,
        library_name="spherectl",
        pipeline_tag=TASK,
        tags=["sphere-encoder", "image-generation", "image-autoencoder"],
        datasets=datasets,
        model_name=title,
        eval_results=results or None,
    ).to_yaml()


def _licence(header: dict[str, Any]) -> tuple[str, str | None]:
    """The licence of the weights in the hub's words, and its name if the hub has no word for it."""
    stated = licence_id(str(header.get("licence") or "unknown"))
    if stated in FREE:
        return stated, None
    return ("unknown", None) if stated in ("unknown", "unstated") else ("other", stated)


def _body(header: dict[str, Any], title: str) -> str:
    """What the header knows, as a card's title and body."""
    model = header.get("recipe", {}).get("model", {})
    names = header.get("class_names", [])
    size = header.get("image_size") or model.get("image_size")
    classes = f"{len(names)} classes ({listed(names, 12)})" if names else "no named classes"
    seen = f", {header['images_seen']:,} images seen" if header.get("images_seen") else ""
    rows = [
        f"| {one['metric']} | {one['value']} | `{one.get('command') or 'unknown'}` |"
        for one in header.get("scores", [])
    ]
    scores = "\n".join(["## Scores", "", "| | | measured by |", "|---|---|---|", *rows, "", ""]) if rows else ""
    return f"""# {title}

A Sphere Encoder that generates images of {size} x {size} pixels; {classes}.

{scores}## Training

Recipe {header.get("recipe", {}).get("name") or "unknown"}{seen}. `{header.get("command") or "spherectl train"}`

## Data and licence

Data: {header.get("data") or "unknown"}, licence {header.get("data_licence") or "unknown"}.
Weights: {header.get("licence") or "unknown"}.
"""


@contextlib.contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    """Keep the library's own bars from stderr, unless they are wanted."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
