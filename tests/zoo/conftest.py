"""Models to fetch: the reference model in the published layout and as a file of ours, an index of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spherectl import zoo
from spherectl.model.formats import weights
from tests.hub import Hub, hub_on_this_machine
from tests.serving import Host, hosting

CHECKPOINT = "ckpt/ep0007.pth"
FACTS = {"kind": "model", "licence": "MIT", "summary": "One.", "channels": "rgb", "image_size": 16, "classes": 7}


@pytest.fixture
def layout(reference: Path) -> dict[str, bytes]:
    """The files of the published checkpoint of the reference vectors."""
    folder = reference / "published-layout"
    return {name: (folder / name).read_bytes() for name in ("cfg.json", CHECKPOINT)}


@pytest.fixture(scope="session")
def ours(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same model as a file of ours."""
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    weights.write_package(path, weights.read_package(reference / "published-layout"))
    return path.read_bytes()


@pytest.fixture
def host(waits: list[float]) -> Iterator[Host]:
    with hosting() as host:
        yield host


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_on_this_machine(monkeypatch, tmp_path / "hf" / "hub") as hub:
        yield hub


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., zoo.Entry]:
    """`own(name="one", ...)` puts one entry into an index of the user's own, and returns it."""

    def write(**entry: object) -> zoo.Entry:
        lines = [f"{key} = {inline(value)}" for key, value in {"name": "one", **FACTS, **entry}.items()]
        (tmp_path / "index.toml").write_text("\n".join(["[[entry]]", *lines]), encoding="utf-8")
        monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(tmp_path / "index.toml"))
        return zoo.find_entry(str(entry.get("name", "one")))

    return write


def inline(value: object) -> str:
    """A value as TOML has it on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {inline(one)}' for key, one in value.items())}}}"
    return json.dumps(value)
