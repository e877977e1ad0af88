"""What all tests share: one speed for each, no quiet skips in CI, and a command line without surroundings."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.forked import python_run

if TYPE_CHECKING:
    from spherectl.model.formats.weights import Package
    from spherectl.recipe import Recipe

pytest_plugins = ["tests.published", "tests.processes"]

ROOT = Path(__file__).resolve().parents[1]
SPEEDS = ("fast", "slow", "gpu", "soak")

# Test processes side by side (pytest-xdist) share the cores with each other, and with the processes they start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    # Who waits for other threads sleeps: spinning takes a shared core from those who work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The one setting of whoever runs the tests that is kept: `make test-plain` switches the kernels off for all of them.
KEPT = "SPHERECTL_KERNELS"

# Variables that decide where programs keep things, all replaced by folders of the test's own.
HOMES = {
    "HOME": "home",
    "USERPROFILE": "home",
    "XDG_CACHE_HOME": "home/cache",
    "XDG_CONFIG_HOME": "home/config",
    "XDG_DATA_HOME": "home/data",
    "TORCH_HOME": "home/cache/torch",
    "HF_HOME": "home/cache/huggingface",
    "APPDATA": "home/config",
    "LOCALAPPDATA": "home/data",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests without a speed, or with two: `make test` selects by them, and would silently leave a test out.

    Files with slow tests come first, so that no process of several has them alone in the end.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    wrong = []
    for item in items:
        speeds = [speed for speed in SPEEDS if item.get_closest_marker(speed)]
        if len(speeds) != 1:
            wrong.append(f"{item.nodeid} has {' and '.join(speeds) or 'none'}")
    if wrong:
        raise pytest.UsageError(f"Every test needs exactly one of the marks {', '.join(SPEEDS)}: " + "; ".join(wrong))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip gpu tests where there is no CUDA device."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that skips because a package is missing has failed: CI installs everything but a GPU."""
    report = yield
    if not item.get_closest_marker("gpu"):
        _fail_if_package_missing(report, call)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips at its `importorskip`."""
    report = yield
    _fail_if_package_missing(report, getattr(report, "call", None))
    return report


def _fail_if_package_missing(
    report: pytest.TestReport | pytest.CollectReport, call: pytest.CallInfo[Any] | None
) -> None:
    """Turn a skip into a failure if `pytest.importorskip` raised it and the variable CI is set."""
    if not os.environ.get("CI") or not report.skipped or call is None or call.excinfo is None:
        return
    if any(entry.frame.code.name == "importorskip" for entry in call.excinfo.traceback):
        report.outcome = "failed"
        report.longrepr = f"{call.excinfo.value}\nCI must have this package: add it to what `make test` installs."


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings, caches or models of whoever runs it."""
    for name, place in _surroundings(tmp_path).items():
        monkeypatch.setenv(name, place)
    for name in [name for name in os.environ if _is_setting(name)]:
        monkeypatch.delenv(name)


def _is_setting(name: str) -> bool:
    """Whether a variable is a setting, of ours or of the hub, that no test sees."""
    of_the_hub = ("HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE")
    return (name.startswith("SPHERECTL_") and name != KEPT) or name in of_the_hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited between attempts to fetch; nothing waits."""
    from spherectl import downloader

    waited: list[float] = []
    monkeypatch.setattr(downloader.time, "sleep", waited.append)
    return waited


def _surroundings(folder: Path) -> dict[str, str]:
    return {name: str(folder / place) for name, place in HOMES.items()}


def _share_kernels(folder: Path) -> None:
    """Let all caches below a test's folder hold the same compiled kernels: a compilation takes two seconds."""
    shared = Path(tempfile.gettempdir()) / f"spherectl-test-kernels-{os.getuid()}" if hasattr(os, "getuid") else None
    own = folder / HOMES["XDG_CACHE_HOME"] / "spherectl" / "kernels"
    if shared is not None and not own.exists():
        shared.mkdir(mode=0o700, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(shared, target_is_directory=True)


class Cli:
    """`python -m spherectl` in a process of its own, whose home, settings, caches and ./runs lie below `folder`.

    Args:
        folder: where the command runs, unless a call says otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 900,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever the exit code, and keep both outputs.

        Args:
            arguments: what follows `spherectl`.
            cwd: where to run; a relative --out and ./runs are relative to it.
            env: further variables, such as SPHERECTL_DATA.
            stdin: what the command reads; never a terminal.
            timeout: seconds until it is killed and the test fails.
        """
        return self.python("-m", "spherectl", *arguments, cwd=cwd, env=env, stdin=stdin, timeout=timeout)

    def python(
        self,
        *words: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 900,
    ) -> subprocess.CompletedProcess[str]:
        """The same for any words after `python`."""
        return python_run(*words, env=self.environment(env), cwd=cwd or self.folder, stdin=stdin, timeout=timeout)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The process's variables: without settings but `KEPT`, plain output, 120 columns, folders of its own."""
        kept = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        kept.pop("FORCE_COLOR", None)
        plain = {
            "COLUMNS": "120",
            "TERMINAL_WIDTH": "120",
            "NO_COLOR": "1",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONPATH": str(ROOT),
            "_TYPER_FORCE_DISABLE_TERMINAL": "1",
        }
        _share_kernels(self.folder)
        return kept | plain | _surroundings(self.folder) | dict(extra or {})


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`cli("sample", "--steps", 1)`: the command line below this test's own folder."""
    return Cli(tmp_path)


@pytest.fixture(scope="session")
def make_cli() -> type[Cli]:
    """`make_cli(folder)`, for fixtures of a whole file that train once and look many times."""
    return Cli


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference vectors of section 9 of the method's description."""
    return ROOT / "tests" / "reference"


@pytest.fixture(scope="session")
def fashion_excerpt() -> Path:
    """A few hundred images of Fashion-MNIST in its own format, for `--data`."""
    return ROOT / "tests" / "data" / "fashion-excerpt"


@pytest.fixture(scope="session")
def lively() -> Callable[[Recipe], Package]:
    """`lively(recipe)`: fixed weights whose images depend on everything.

    Start values do not: both networks begin at zero output, and after a few steps all images are still nearly the
    same grey, so that no test of bits could fail. Here zeros are small normals instead, the pixel head and the class
    tables as large as trained ones.
    """
    import torch

    from spherectl.model import seeding
    from spherectl.model.formats.weights import Package
    from spherectl.model.sphere import build, initialise

    def make(recipe: Recipe) -> Package:
        network = build(recipe.model)
        initialise(network, seed=0)
        tensors = {}
        for place, (name, parameter) in enumerate(network.named_parameters()):
            tensor = parameter.detach().clone()
            if not tensor.any():
                drawn = seeding.normal(1, seeding.START, torch.tensor([place]), tensor.numel())
                tensor = 0.1 * drawn.float().reshape(tensor.shape)
            if name.startswith("decoder.out") and name.endswith("weight"):
                tensor *= 100
            elif "embedding_table" in name:
                tensor *= 50
            tensors[name] = tensor
        header = {"recipe": recipe.to_table(), "weights": "raw", "class_names": [], "channels": "grey", "data": "none"}
        return Package(header, tensors)

    return make


def _trained(folder: Path, excerpt: Path, tables: dict[str, Any], start: Callable[[Recipe], Package] | None) -> Path:
    """A finished run of the debug recipe, by the library: no setting of whoever runs the tests plays a part."""
    import torch

    from spherectl import recipe as recipes
    from spherectl.data.datasets import open_dataset
    from spherectl.training.loop import train
    from spherectl.training.plan import resolve

    recipe, cpu = recipes.load(ROOT / "recipes" / "debug.toml", tables), torch.device("cpu")
    images = open_dataset(recipe.data, recipe.model.image_size, root=excerpt)
    resolved = resolve(recipe, images, cpu)
    train(resolved, images, folder, device=cpu, start=start and start(resolved))
    return folder


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, fashion_excerpt: Path, lively: Callable[[Recipe], Package]
) -> Path:
    """A finished run of the debug recipe, from lively weights, that `sample` may pick. Copy it before changing it."""
    tables = {"name": "tiny", "run": {"default": True}}
    return _trained(tmp_path_factory.mktemp("tiny") / "tiny", fashion_excerpt, tables, lively)


@pytest.fixture(scope="session")
def tiny_baselines(tmp_path_factory: pytest.TempPathFactory, fashion_excerpt: Path) -> dict[str, Path]:
    """Finished runs of a VAE and of a diffusion model of the debug recipe's size, by kind; their images are grey."""
    import experiments  # noqa: F401 - it registers both

    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("baselines")
    changes: dict[str, dict[str, Any]] = {
        "vae": {"model": {"kind": "vae", "encoder_mixer_blocks": 0}, "loss": {"kl": 1e-3}},
        "diffusion": {"model": {"kind": "diffusion"}},
    }
    run = {"length_images": 24, "checkpoint_images": 24, "sample_images": 24}
    return {
        kind: _trained(folder / kind, fashion_excerpt, {"name": kind, "run": run, **tables}, None)
        for kind, tables in changes.items()
    }
