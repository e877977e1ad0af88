"""The shape of the package: who may import whom, what loads when, and what is never called.

`FLOORS` is the design's list of floors, bottom first. A file imports only from floors below its own, or from files
before it on its floor; so the whole list is one order, and no cycle can arise.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spherectl"


def records(folder: str, but: str = "") -> list[str]:
    """The modules of a folder that has one record a file, of which none imports another."""
    files = sorted(PACKAGE.joinpath(*folder.split(".")).glob("*.py"))
    return [f"{folder}.{file.stem}" for file in files if file.stem not in ("__init__", but)]


FLOORS = [
    # What a name, a file or a setting means. No torch.
    ["shown", "errors", "checks", "sampling", "documents", "timing", "files", "places",
     "validation", "tables", "settings", "progress", "registry",
     "data", "data.sets",
     *("recipe.limits", "recipe.model", "recipe.data", "recipe.noise", "recipe.loss", "recipe.optim", "recipe.run"),
     *("recipe.sample", "recipe.whole", "recipe.files", "recipe"),
     "addresses", "http", "downloader",
     "fetch", "safetensors_header", "classes",
     *("model", "model.formats", "model.formats.header", "model.formats.layouts"),
     *("zoo.entries", "zoo.catalogue", "zoo.repositories", "zoo.hub", "zoo.receipts", "zoo.download", "zoo.publish"),
     *("zoo.finding", "zoo", "zoo.additions")],
    # The networks and their mathematics.
    [
        *("model.geometry", "model.seeding", "model.attention", "model.layers"),
        *("model.kernels", "model.fused", "model.packing", "model.fast", "model.vit", "model.sphere"),
        "model.devices",
        *("model.sampler", "model.compiled", "model.objective",),
        *("model.formats.package", "model.formats.pickles", "model.formats.published", "model.formats.weights"),
        "model.formats.conversion",
    ],
    # Images, and frozen networks that look at them.
    [
        "arrays",
        *("data.names", "data.decode", "data.given", "data.idx", "data.indexes"),
        *("data.listings", "data.folders", "data.lists", "data.tars", "data.shards"),
        *("data.transforms", "data.unreadable", "data.image_set", "data.decoded", "data.remote", "data.streamed"),
        "data.download",
        *("data.sets.folder", *records("data.sets", but="folder")),
        *("data.datasets", "data.workers", "data.order"),
        "features",
        *("features.records", *records("features.records"), "features.networks"),
        *("features.store", "features.imagenet", "features.fit", "features.independence"),
        "images",
        "processes",
        "versions",
    ],
    # What is done with a model.
    [
        *("training.perceptual", "training.flops", "training.monitor", "training.step", "training.parallel"),
        *("training.ema", "training.checkpoint", "training.optimiser", "training.saver", "training.tensorboard"),
        "training.grey",
        *("api.inputs", "api.files", "api.hub", "api.model", "api.generation", "api.loading", "api"),
        *("provenance", "output"),
        "training.previews", "training.loggers",
        *("training.plan", "training.cuda", "training.run", "training.publish", "training.finetune"),
        *("training.session", "training.loop"),
        "training",
        "editing",
        *("editing.stitching", "editing.rounds", "editing.interpolation", "editing.measurements"),
        *("editing.restoration", "editing.fitting", "editing.latents", "edits"),
        *("evaluation.extractors", "evaluation.embeddings", "evaluation.reference", "evaluation.bootstrap"),
        *("evaluation.replicates", "evaluation.directions", "evaluation.spectrum"),
        *("evaluation.reconstruction", "evaluation.uniformity", "evaluation.neighbours", "evaluation.memorisation"),
        *("evaluation.metrics", "evaluation.fidelity", "evaluation.protocol", "evaluation.real"),
        *("evaluation.scoring", "evaluation.run"),
        *("evaluation.report_tables", "evaluation.report", "evaluation"),
        *("evaluation.autoencoders", "evaluation.posterior", "evaluation.projection"),
        "export",
        *("export.graphs", "export.check", "export.metadata", "export.onnx", "export.pt2", "export.layouts"),
        *("export.web", "export.formats"),
        "plots",
        *("plots.figures", "plots.curves", "plots.training", "plots.posterior", "plots.uniformity", "plots.samples"),
    ],
    # The command line.
    [
        "cli",
        *("cli.streams", "cli.console", "cli.failures", "cli.signals", "cli.options"),
        *("cli.models", "cli.image_files", "cli.train", "cli.encode", "cli.reproduce", "cli.sample"),
        *("cli.edit", "cli.degradation", "cli.restore", "cli.interpolate", "cli.evaluate"),
        *("cli.plot_latents", "cli.plot"),
        "cli.export",
        *("cli.zoo_own", "cli.zoo", "cli.recipes", "cli.features", "cli.doctor"),
        "cli.app",
        "__main__",
    ],
]  # fmt: skip
ORDER = [name for floor in FLOORS for name in floor]

# Where the name of a module is not that of the distribution that brings it.
DISTRIBUTIONS = {"PIL": "pillow"}

HEAVY = {"torch", "torchvision", "pydantic", "pydantic_settings", "pooch", "numpy", "requests"}
HEAVY |= {"matplotlib", "huggingface_hub"}

# What an image does not need; torch's compiler and all it brings take longer than everything of ours.
NOT_FOR_SAMPLING = {
    *("torchvision", "scipy", "pooch", "requests", "tensorboard", "torch_fidelity", "lpips", "xformers", "filelock"),
    "huggingface_hub",
    *("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.fx.experimental.symbolic_shapes"),
    *("sympy", "matplotlib"),
    *("spherectl.training", "spherectl.features", "spherectl.evaluation.run", "spherectl.data.datasets"),
}


def module_name(path: Path) -> str:
    """`data.order` of spherectl/data/order.py, `data` of spherectl/data/__init__.py, "" of the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of everything imported anywhere in a file, in functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """Modules of the package that a file imports; the version, which is metadata, may be asked for anywhere."""
    found = set()
    attributes = {ast.unparse(node) for node in ast.walk(FILES[name]) if isinstance(node, ast.Attribute)}
    only_version = {one for one in attributes if re.fullmatch(r"spherectl\.\w+", one)} == {"spherectl.__version__"}
    for full in imports(FILES[name]):
        if (
            not full.startswith("spherectl")
            or full == "spherectl.__version__"
            or (full == "spherectl" and only_version)
        ):
            continue
        inner = full.removeprefix("spherectl").removeprefix(".")
        while inner not in FILES:  # from module import name
            inner = inner.rpartition(".")[0]
        found.add(inner)
    return found


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with what is called as it is written."""
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.fast
def test_every_file_has_its_place_and_every_place_its_file():
    assert sorted(ORDER) == sorted(set(FILES) - {""})


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(set(FILES) - {""}))
def test_a_file_imports_only_what_lies_below_it(name):
    place = ORDER.index(name)
    above = {other for other in own_imports(name) if other == "" or ORDER.index(other) >= place}
    assert not above, f"{name} imports {', '.join(sorted(above)) or 'the package'}, which does not lie below it"


@pytest.mark.fast
def test_the_package_itself_offers_the_api_and_nothing_else():
    assert own_imports("") == {"api", "edits"}


@pytest.mark.fast
def test_the_lazy_names_are_found_where_they_are_made():
    import spherectl

    homes = {name: importlib.import_module(module) for module, names in spherectl._HOME.items() for name in names}
    assert sorted(set(spherectl.__all__) - {"__version__"}) == sorted(homes)
    for name, home in homes.items():
        assert getattr(spherectl, name) is getattr(home, name)
    assert set(homes) <= set(dir(spherectl))
    with pytest.raises(AttributeError, match="module 'spherectl' has no attribute 'nothing'"):
        spherectl.nothing  # noqa: B018 - the attribute is the test


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(set(FILES)))
def test_only_the_command_line_knows_the_terminal(name):
    if not name.startswith("cli"):
        roots = {full.partition(".")[0] for full in imports(FILES[name])}
        assert not roots & {"typer", "rich", "click", "tqdm"}
    assert "print" not in {called for called, _ in calls(name)}


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(set(FILES)))
def test_nothing_is_unpickled(name):
    for called, node in calls(name):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert not re.fullmatch(r"(pickle|dill|marshal|shelve|joblib)\.(loads?|open|Unpickler)", called)
        if called == "torch.load":
            assert keywords.get("weights_only") == "True"
        if called in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False"


@pytest.mark.fast
def test_images_are_opened_in_one_place():
    """Pillow left alone starts programs (Ghostscript), and decodes whatever size a header promises."""
    callers = [(name, node) for name in FILES for called, node in calls(name) if called.endswith("Image.open")]
    assert [name for name, _ in callers] == ["data.decode"]
    assert "formats" in {keyword.arg for keyword in callers[0][1].keywords}
    for tree in FILES.values():  # under no other name either
        assert not {"PIL.Image.open", "PIL.ImageFile.Parser", "torchvision.io"} & set(imports(tree))


@pytest.mark.fast
def test_every_imported_distribution_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    declared = {re.match(r"[\w.-]+", one)[0].lower() for one in required}
    roots = {full.partition(".")[0] for tree in FILES.values() for full in imports(tree)}
    others = roots - sys.stdlib_module_names - {"spherectl"}
    wanted = {DISTRIBUTIONS.get(root, root.replace("_", "-")).lower() for root in others}
    assert wanted <= declared, f"imported but not in pyproject.toml: {', '.join(sorted(wanted - declared))}"


# What a process has loaded once it has done something


def loaded(cli, code: str, *arguments: str, env: dict[str, str] | None = None) -> set[str]:
    """All modules in a process of its own after `code`."""
    tell = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code + tell, *arguments],
        env=cli.environment(env),
        cwd=cli.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(ended.stdout.splitlines()[-1]))


RUN = """
import contextlib, json, sys
from spherectl.cli.app import app
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as ended:
        assert ended.code == 0, (arguments, ended.code)
"""


def after(cli, *lines: str, env: dict[str, str] | None = None) -> set[str]:
    """Modules loaded after some command lines, one after another."""
    return loaded(cli, RUN, json.dumps([line.split() for line in lines]), env=env)


@pytest.mark.slow
def test_heavy_modules_are_seen_when_they_are_loaded(cli):
    """The measure itself: were `loaded` blind, the tests below could not fail."""
    assert loaded(cli, "import pooch, requests, torchvision, pydantic_settings, matplotlib, huggingface_hub") >= HEAVY
    assert loaded(cli, "import torch; torch.arange(3, device='meta')") & NOT_FOR_SAMPLING >= {"sympy"}


@pytest.mark.slow
def test_help_and_version_load_nothing_heavy(cli):
    lines = ["--help", "--version", "train --help", "sample --help", "doctor --help", "plot training --help"]
    lines += ["export --help", "restore --help", "zoo ls --help", "recipes check --help", "features train --help"]
    assert not after(cli, *lines) & HEAVY


@pytest.mark.slow
@pytest.mark.parametrize("line", ["spherectl sample --device ", "spherectl zoo ls --"])
def test_completion_loads_nothing_heavy(cli, line):
    asked = {"_SPHERECTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    assert not after(cli, "", env=asked) & HEAVY


@pytest.mark.slow
def test_listing_loads_no_torch(cli):
    modules = after(cli, "zoo ls", "zoo ls --json", "recipes ls", "recipes show debug", "recipes check debug")
    assert not modules & {"torch", "torchvision", "numpy", "pooch", "huggingface_hub"}


@pytest.mark.slow
def test_sampling_loads_no_more_than_it_needs(cli):
    lines = ["sample --count 2 --steps 2 --out grid.png", "sample --count 2 --guidance 1.4 --out folder --profile"]
    lines += ["sample --count 2 --dtype float32 --out arrays.npz", "sample --like grid.png --out again.png"]
    modules = after(cli, *lines)
    assert "torch" in modules
    assert not modules & NOT_FOR_SAMPLING
