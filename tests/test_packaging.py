"""What an installed spherectl consists of: the wheel against the checkout, pins against ranges, a run outside of it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def pip(*arguments: str | Path) -> None:
    """Run pip of this environment without a network."""
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)],
        check=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip install .` builds it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.fast
@pytest.mark.parametrize(
    ("folder", "inside", "patterns"),
    [
        ("zoo", "spherectl/_data/zoo/", ["*.toml", "*.md", "*.safetensors"]),
        ("recipes", "spherectl/_data/recipes/", ["*.toml"]),
        ("spherectl/export/page", "spherectl/export/page/", ["*.*", "LICENSE"]),
    ],
)
def test_wheel_carries_the_folder_byte_for_byte(wheel: Path, folder: str, inside: str, patterns: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {n.removeprefix(inside): archive.read(n) for n in archive.namelist() if n.startswith(inside)}
    files = [path for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    here = {path.relative_to(ROOT / folder).as_posix(): path.read_bytes() for path in files}
    assert packed == here
    assert {"index.toml", "debug.toml", "page.js"} & set(here)


@pytest.mark.fast
def test_wheel_carries_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.name == f"spherectl-{PROJECT['version']}-py3-none-any.whl"
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    about = f"spherectl-{PROJECT['version']}.dist-info/"
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "spherectl").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert [name for name in names if not name.startswith(("spherectl/", about))] == []
    others = {"spherectl/py.typed", f"{about}licenses/LICENSE", f"{about}licenses/NOTICE"}
    for folder in (ROOT / "spherectl" / "class_names", ROOT / "spherectl" / "model" / "csrc"):
        others |= {path.relative_to(ROOT).as_posix() for path in folder.iterdir()}
    assert others <= set(names)


@pytest.mark.fast
def test_the_vendored_runtime_is_what_its_table_says() -> None:
    from spherectl.export.web import RUNTIME_VERSION
    from tools import onnxruntime_web

    version, table = onnxruntime_web.recorded()
    assert table == onnxruntime_web.hashes(onnxruntime_web.FOLDER)
    assert version == RUNTIME_VERSION
    assert f"ONNX Runtime Web {version}," in (ROOT / "NOTICE").read_text(encoding="utf-8")


@pytest.mark.fast
def test_an_editable_install_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the weights beside the packages would go on being found after the checkout's changed."""
    backend = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / backend.build_editable(str(tmp_path))) as archive:
        outside = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert outside == ["_spherectl.pth"]
        assert archive.read("_spherectl.pth").decode().split() == [str(ROOT)]


@pytest.mark.fast
def test_every_requirement_of_make_test_has_a_pin_in_its_range() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^EXTRAS := (\S+)$", makefile, re.MULTILINE)
    assert found
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [line for extra in found[1].split(",") for line in extras[extra]]
    for requirement in map(Requirement, wanted):
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} against the pin {pin}"


RUN = """
import sys
import spherectl
from spherectl.cli.app import app
print(spherectl.__file__, spherectl.__version__)
for line in sys.argv[1:]:
    try:
        app(line.split())
    except SystemExit as ended:
        assert ended.code == 0, line
"""


@pytest.mark.slow
def test_installed_elsewhere_it_samples_offline(wheel: Path, make_cli: Any, tmp_path: Path) -> None:
    """Beside the packages there are, away from the checkout: the embedded model, a packaged recipe, an intact zoo."""
    place, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    pip("install", "--no-index", "--no-deps", "--target", place, wheel)
    lines = ["sample --count 10 --steps 1 --out samples.png", "recipes ls", "recipes show imagenet256", "zoo verify"]
    done = make_cli(work).python("-c", RUN, *lines, env={"PYTHONPATH": str(place), "SPHERECTL_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    where, *said = done.stdout.splitlines()
    assert where.split() == [str(place / "spherectl" / "__init__.py"), PROJECT["version"]]
    assert (work / "samples.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    names = {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    assert names <= {line.split()[0] for line in said if line}
    assert any(line.startswith('kind = "imagenet"') for line in said)
