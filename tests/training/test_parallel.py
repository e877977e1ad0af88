"""Pieces of a batch, in one process or in several, are the whole batch.

The oracle is always the same training by one process at once.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_package
from spherectl.model.objective import training_noise
from spherectl.model.sphere import build, initialise
from spherectl.processes import Processes
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training import loop
from spherectl.training.checkpoint import Counts
from spherectl.training.optimiser import adapt_scale
from spherectl.training.parallel import shares
from spherectl.training.plan import resolve

SEVERAL = Path(__file__).with_name("several.py")
CPU = torch.device("cpu")


def tables(dtype: str, steps: int, **run: Any) -> dict[str, Any]:
    length = {"length_images": 8 * steps, "checkpoint_images": 8 * steps, "sample_images": 8 * steps}
    return {"run": {**length, "dtype": dtype, **run}}


VARIANTS = {
    "ddp": {},
    "accumulated": {"micro_batch_size": 2},
    "fsdp": {"parallel": "fsdp"},
}


def variant(name: str, of: dict[str, Any]) -> str:
    return f"{name}:{json.dumps(of)}"


def losses(run: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {key: [line[key] for line in lines] for key in lines[0] if key.startswith(("loss", "grad", "latent"))}
    return found | {"rank": [line["effective_rank"] for line in lines if "effective_rank" in line]}


def trained(dataset: ImageSet, folder: Path, of: dict[str, Any]) -> Path:
    """The same by one process at once."""
    recipe = resolve(recipes.load(packaged("recipes") / "debug.toml", of), dataset, CPU)
    return loop.train(recipe, dataset, folder, device=CPU).run.path


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


def compare(found: Path, expected: Path, rel: float, floor: float = 0.0) -> None:
    ours, theirs = losses(found), losses(expected)
    for key in theirs:
        assert ours[key] == pytest.approx(theirs[key], rel=rel, abs=floor), key


# Of float32: in the first two steps the far image is the near one but for rounding, and the square of that, 1e-16,
# is the consistency loss.
ROUNDING = 1e-14


@pytest.mark.parametrize(
    ("steps", "steps32"), [pytest.param(30, 5, marks=pytest.mark.slow), pytest.param(200, 20, marks=pytest.mark.soak)]
)
def test_two_processes_accumulation_and_shards_learn_the_same(
    steps: int, steps32: int, together: Callable[..., Any], dataset: ImageSet, tmp_path: Path, fashion_excerpt: Path
) -> None:
    """Many steps in float64 to 1e-9, the first of them in float32 to 1e-5."""
    wanted = [variant(name, tables("float64", steps, **run)) for name, run in VARIANTS.items()]
    wanted += [variant(f"{name}-32", tables("float32", steps32, **run)) for name, run in VARIANTS.items()]
    ended = together(2, SEVERAL, tmp_path, fashion_excerpt, *wanted)
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    whole = trained(dataset, tmp_path / "whole", tables("float64", steps))
    short = trained(dataset, tmp_path / "whole-32", tables("float32", steps32))
    total = losses(whole)["loss"]
    assert len(total) == steps
    assert sum(total[-20:]) / 20 < 0.5 * total[0]
    averages = read_package(whole / "model.safetensors").weights
    for name in VARIANTS:
        compare(tmp_path / name, whole, 1e-9)
        compare(tmp_path / f"{name}-32", short, 1e-5, ROUNDING)
        weights = read_package(tmp_path / name / "model.safetensors").weights
        assert all(torch.allclose(weights[key], averages[key], rtol=1e-6, atol=1e-7) for key in averages)
        assert json.loads((tmp_path / name / "run.json").read_text())["processes"] == 2
        assert len(list((tmp_path / name / "samples").iterdir())) == 2
    shards = sorted((tmp_path / "fsdp" / "checkpoints" / f"{8 * steps:012d}").glob("*.safetensors"))
    sizes = [path.stat().st_size for path in shards]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes)  # each wrote its half


@pytest.mark.slow
def test_the_command_under_torchrun_goes_on_with_what_one_process_began(
    cli: Any, dataset: ImageSet, tmp_path: Path, fashion_excerpt: Path
) -> None:
    """Ten steps alone, the rest by two processes in uneven micro-batches: the same losses, told by the first alone."""
    half, whole = tables("float64", 10), tables("float64", 20)
    half["run"] |= whole["run"] | {"length_images": 160}
    expected = trained(dataset, tmp_path / "whole", half)
    run = tmp_path / "run"
    recipe = resolve(recipes.load(packaged("recipes") / "debug.toml", half), dataset, CPU)
    asked = iter(range(100))
    stopped = loop.train(recipe, dataset, run, device=CPU, should_stop=lambda: next(asked) == 9)
    assert stopped.images_seen == 80
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "spherectl"]
    command += ["train", str(run / "recipe.toml"), "--data", str(fashion_excerpt), "--run-dir", str(run)]
    command += ["--set", "run.micro_batch_size=3"]
    ended = subprocess.run(
        [sys.executable, *command], env=cli.environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    compare(run, expected, 1e-9)
    assert ended.stdout.count("model.safetensors") == 1
    assert ended.stderr.count("run: ") == 1
    assert "2 processes (ddp)" in ended.stderr
    assert "Warning" not in ended.stderr
    assert recipes.load(run / "recipe.toml").run.micro_batch_size == 3  # how it goes on may change


@pytest.mark.slow
def test_a_mistake_is_told_once_and_leaves_nobody_waiting(
    together: Callable[..., Any], cli: Any, tmp_path: Path, fashion_excerpt: Path
) -> None:
    command = ["-m", "spherectl", "train", "debug", "--data", fashion_excerpt]
    few = ["--set", "run.batch_size=3", "--set", "run.length_images=3"]
    for world, words, said in (
        (2, [*command[:-1], tmp_path / "nothing"], "No fashion-mnist in"),
        (4, [*command, *few], "less than one image for each of 4"),
    ):
        ended = together(world, *words, env=cli.environment())
        assert {one.returncode for one in ended} == {2}
        assert sum(one.stderr.count(said) for one in ended) == 1, [one.stderr for one in ended]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("batch", "world", "micro"), [(8, 1, None), (8, 2, None), (8, 2, 3), (9, 2, 2), (8, 3, 1), (7, 7, 5), (256, 6, 10)]
)
def test_shares_cover_the_batch_once_in_equally_many_pieces(batch: int, world: int, micro: int | None) -> None:
    pieces = [shares(batch, Processes(rank, world), micro) for rank in range(world)]
    flat = [piece for one in pieces for piece in one]
    assert [number for start, stop in flat for number in range(start, stop)] == list(range(batch))
    assert len({len(one) for one in pieces}) == 1
    sizes = {stop - start for start, stop in flat}
    assert max(sizes) - min(sizes) <= 1
    if micro is not None:
        assert max(sizes) <= micro + (batch % world > 0)


@pytest.mark.fast
@pytest.mark.parametrize("hard_cases", ["reference", "full"])
def test_parts_of_a_draw_are_parts_of_the_whole(hard_cases: str) -> None:
    labels = torch.arange(16) % 10
    common: dict[str, Any] = {"batch": 16, "latent_shape": (4, 3), "hard_ratio": 1.1, "num_classes": 10}
    common |= {"hard_probability": 0.5, "hard_cases": hard_cases, "label_dropout": 0.5}
    whole = training_noise(5, 320, labels, **common)
    for start, stop in ((0, 16), (3, 4), (7, 16)):
        part = training_noise(5, 320, labels[start:stop], part=(start, stop), **common)
        for name in ("large", "small", "noise", "labels_encode", "labels_again"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[start:stop]), name
        halves = whole.labels_decode.chunk(2)  # type: ignore[union-attr]
        assert torch.equal(part.labels_decode, torch.cat([half[start:stop] for half in halves]))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"activation_checkpointing": True}, {"compile": True}])
def test_checkpointed_and_compiled_blocks_have_the_same_gradient(
    change: dict[str, bool], dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_block = torch.nn.Module.compile  # traced as ever; the C++ that would follow takes a minute
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compile_block(block, backend="aot_eager"))
    expected = trained(dataset, tmp_path / "plain", tables("float64", 3))
    found = trained(dataset, tmp_path / "changed", tables("float64", 3, **change))
    compare(found, expected, 1e-9)
    header = read_header(found / "model.safetensors")
    assert header["recipe"]["run"] | change == header["recipe"]["run"]


@pytest.mark.fast
def test_activations_are_counted_again_where_blocks_are_checkpointed() -> None:
    """The same gradient, and the block is called twice: once forward, once for its gradient."""
    recipe: Recipe = recipes.load(packaged("recipes") / "debug.toml")
    model = build(recipe.model)
    initialise(model, 0)
    calls: list[int] = []
    for place, block in enumerate(model.encoder.blocks):
        block.register_forward_pre_hook(lambda *_, place=place: calls.append(place))
    images = seeding.normal(0, 0, torch.arange(2), 3 * 32 * 32).float().reshape(2, 3, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        calls.clear()
        model.encoder.checkpointing = model.encoder.by_modules = checkpointing
        model.zero_grad()
        (model.encoder(images, torch.tensor([1, 2])) + 1).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.encoder.parameters() if p.grad is not None])
        assert calls == [0, 1, 2] + ([2, 1, 0] if checkpointing else [])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        calls.clear()
        model.encoder(images, torch.tensor([1, 2]))
    assert calls == [0, 1, 2]


@pytest.mark.fast
def test_float16_is_for_cuda() -> None:
    recipe = recipes.load(packaged("recipes") / "debug.toml", {"run": {"dtype": "float16"}})
    from spherectl.training.plan import resolve_for

    with pytest.raises(UsageError, match=r'run\.dtype = "float16" is for CUDA; this trains on cpu'):
        resolve_for(recipe, 100, 10, CPU)
    assert resolve_for(recipe, 100, 10, torch.device("cuda")).run.dtype == "float16"


@pytest.mark.fast
def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_two_thousand_good_steps() -> None:
    counts = Counts(loss_scale=2.0**16)
    assert not adapt_scale(counts, finite=False)
    assert counts.loss_scale == 2.0**15
    assert all(adapt_scale(counts, finite=True) for _ in range(1_999))
    assert counts.loss_scale == 2.0**15
    adapt_scale(counts, finite=True)
    assert (counts.loss_scale, counts.good_steps) == (2.0**16, 0)
    least = Counts(loss_scale=1.0)
    assert adapt_scale(least, finite=False)  # nothing is left to halve: the step fails as in other precisions


@pytest.mark.slow
def test_float16_leaves_out_a_step_that_overflows_and_goes_on(
    dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, which users are not offered: slow, but the same code. One gradient is made infinite."""
    recipe = resolve(recipes.load(packaged("recipes") / "debug.toml", tables("float32", 8)), dataset, CPU)
    recipe = recipe.replace(run={"dtype": "float16"})
    real, count = torch.nn.utils.clip_grad_norm_, 0

    def overflowing(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return torch.tensor(float("inf")) if count == 3 else real(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", overflowing)
    run = loop.train(recipe, dataset, tmp_path / "half", device=CPU).run
    about = json.loads((run.checkpoints / f"{64:012d}" / "checkpoint.json").read_text())
    left_out = about["step"] - about["updates"]
    assert about["step"] == 8
    assert 1 <= left_out < 8
    assert about["loss_scale"] == 2.0 ** (16 - left_out)
    assert not math.isfinite(losses(run.path)["grad_norm"][2])
    monkeypatch.undo()
    single = trained(dataset, tmp_path / "single", tables("float32", 8))
    assert losses(run.path)["loss"][0] == pytest.approx(losses(single)["loss"][0], rel=2e-3)
