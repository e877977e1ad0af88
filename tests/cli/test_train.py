"""`spherectl train`: what it says, what it writes, how it stops and goes on; every mistake in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from spherectl.cli import signals
from spherectl.model.formats import weights
from spherectl.model.formats.header import read_header
from spherectl.settings import load_settings
from spherectl.training.monitor import Monitor

METRICS = [
    *("step", "images_seen", "loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat"),
    *("latent_norm", "lr", "grad_norm", *Monitor.KEYS),
]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden and temporary ones too, by its hash; the lock has no contents."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def debug(command: Callable[..., Any], fashion_excerpt: Path) -> Callable[..., Any]:
    """`debug("--run-dir", "x")`: train the debug recipe on the excerpt."""
    return lambda *arguments: command("train", "debug", "--data", fashion_excerpt, *arguments)


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`stopped_after(12)`: the next training gets SIGTERM, or another signal, in its step 12."""

    def arm(steps: int, number: int = signal.SIGTERM) -> None:
        @contextmanager
        def stopped() -> Iterator[Any]:
            monkeypatch.setattr(signals, "stop_signals", real)
            with real() as found:

                class Asked(list[int]):
                    times = 0

                    def __bool__(self) -> bool:
                        self.times += 1
                        if self.times == steps:
                            signal.raise_signal(number)
                            self.extend(found)
                        return len(self) > 0

                yield Asked()

        real = signals.stop_signals
        monkeypatch.setattr(signals, "stop_signals", stopped)

    return arm


@pytest.fixture
def class_folder(tmp_path: Path) -> Callable[[int], Path]:
    """`class_folder(1000)`: a folder of so many class folders, each with a tiny image of its own colour."""

    def make(classes: int) -> Path:
        folder = tmp_path / "images"
        for number in range(classes):
            below = folder / f"class-{number:04d}"
            below.mkdir(parents=True)
            Image.new("RGB", (8, 8), (number % 256, number // 4 % 256, 0)).save(below / "0.png")
        return folder

    return make


# What a training leaves and says


@pytest.mark.fast
def test_a_run_leaves_what_the_design_names_and_once_finished_changes_nothing(debug, work):
    result = debug()
    run = work / "runs" / "debug"
    assert (result.exit_code, result.stdout) == (0, "runs/debug/model.safetensors\n"), result.stderr
    said = result.stderr.splitlines()
    assert said[0] == "data: fashion-mnist, 300 images, 10 classes"
    assert said[1] == "run: runs/debug on cpu in float32, batch 8"
    assert said[-2:] == [
        "finished: 160 images seen; samples in runs/debug/samples",
        "sample from it: spherectl sample --model runs/debug",  # debug has default = false
    ]
    lines = metrics(run)
    assert [[key for key in line if key != "effective_rank"] for line in lines] == [METRICS] * 20
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert [line["images_seen"] for line in lines] == list(range(8, 161, 8))
    before = contents(work)
    again = debug()
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    assert "runs/debug is finished: 160 images seen; --run-dir another folder trains anew" in again.stderr
    changed = {name for name, value in contents(work).items() if value != before.pop(name)}
    assert not before
    assert changed <= {"runs/debug/run.json"}  # says what it last ran on


@pytest.mark.fast
def test_a_run_goes_on_by_its_own_recipe_from_any_folder(debug, command, work, stopped_after, monkeypatch):
    """The resolved recipe knows where the data is, also where --data was a relative path."""
    stopped_after(5)
    relative = os.path.relpath(Path(__file__).parents[1] / "data" / "fashion-excerpt")
    assert command("train", "debug", "--data", relative, "--run-dir", "x").exit_code == 143
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    result = command("train", "../x/recipe.toml", "--run-dir", "../x")
    assert result.exit_code == 0, result.stderr
    assert [line["step"] for line in metrics(work / "x")] == list(range(1, 21))


# --dry-run


@pytest.mark.fast
def test_a_dry_run_says_how_large_it_is_and_writes_nothing(debug, work):
    result = debug("--dry-run", "--set", "run.length_images=100")
    assert result.exit_code == 0
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines()[1:])
    facts = {what: value.strip() for what, value in facts.items()}
    assert facts.pop("memory, about").endswith("GB in float32, without the perceptual networks")
    assert facts == {
        "recipe": "debug",
        "parameters": "153,275 (E and D, size nano)",
        "tokens": "16 of 8 x 8 px",
        "latent size": "128 (8 channels a token)",
        "data": "300 images of fashion-mnist, 10 classes",
        "images": "104",
        "steps": "13 of 8",
    }
    assert contents(work) == {}


@pytest.mark.fast
def test_a_dry_run_needs_no_data_where_the_set_is_published(command, work):
    """Parameters of section 3 of the method; 800 epochs of ImageNet, as in the recipe's head."""
    result = command("train", "recipes/imagenet256.toml", "--dry-run")
    assert result.exit_code == 0
    for text in ("950,354,532 (E and D, size large)", "1,024 of 8 x 8 px", "65,536 (64 channels a token)"):
        assert text in result.stdout
    for text in ("not here; 1,281,167 images as published", "1,024,933,632", "4,003,647 of 256", "bfloat16"):
        assert text in result.stdout
    assert "--data PATH" in result.stderr
    assert contents(work) == {}


# --smoke, and the first two lines of the design's users


@pytest.mark.slow
def test_smoke_on_1000_classes_then_sample_207(command, class_folder, work, monkeypatch):
    monkeypatch.setenv("SPHERECTL_DATA", str(class_folder(1000)))
    smoke = command("train", "recipes/imagenet256.toml", "--smoke")
    assert smoke.exit_code == 0, smoke.stderr
    assert "smoke: without the perceptual part" in smoke.stderr
    assert "data: imagenet, 1,000 images, 1000 classes" in smoke.stderr
    assert smoke.stderr.endswith("sample from it: spherectl sample\n")
    run = work / "runs" / "imagenet256-smoke"
    assert [line["images_seen"] for line in metrics(run)] == [4, 8, 12]
    header = read_header(run / "model.safetensors")
    assert (header["recipe"]["model"]["image_size"], header["recipe"]["model"]["num_classes"]) == (256, 1000)
    sampled = sorted(path.name for path in (run / "samples").iterdir())
    assert sampled == ["000000000012-reconstructions.png", "000000000012.png"]
    sampled = command("sample", "--class", 207, "--steps", 2)
    assert sampled.exit_code == 0, sampled.stderr
    assert sampled.stderr.startswith("model: runs/imagenet256-smoke (newest run)\n")
    with Image.open(work / sampled.stdout.strip()) as image:
        table = json.loads(image.text["spherectl"])
        assert image.size == (4 * 258 - 2, 4 * 258 - 2)
    assert (table["class"], table["steps"], table["model"]) == ([207] * 16, 2, "imagenet256-smoke")


@pytest.mark.fast
def test_without_data_one_sentence_says_where_it_goes(command, fails, work):
    place = load_settings().data / "imagenet"
    said = fails(command("train", "recipes/imagenet256.toml"), 2, str(place), "--data PATH", "--smoke")
    assert said == (
        f"error: There is nothing to train on yet: put the images of imagenet, one folder a class, into {place} "
        "or name another place with --data PATH (add --smoke to try three steps first)."
    )
    assert contents(work) == {}


# Fine-tuning


@pytest.mark.fast
def test_from_starts_at_the_weights_of_the_model_and_is_part_of_what_a_run_is(debug, fails, work, tiny_run):
    """With steps of no length the run ends where it began: at the model's weights, bit for bit."""
    still = ["--set", "optim.lr=1e-40", "--set", "optim.min_lr=0", "--set", "run.length_images=16", "--run-dir", "same"]
    result = debug("--from", tiny_run, *still)
    assert result.exit_code == 0, result.stderr
    assert f"from: {tiny_run / 'model.safetensors'}, 100.0% of the weights\n" in result.stderr
    start = weights.read_package(tiny_run / "model.safetensors")
    tuned = weights.read_package(work / "same" / "model.safetensors")
    for name, tensor in start.weights.items():
        assert torch.equal(tuned.weights[name], tensor), name
    assert tuned.header["parent"] == hashlib.sha256((tiny_run / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((work / "same" / "run.json").read_text())["parent"] == tuned.header["parent"]
    assert "is finished" in debug("--from", tiny_run, *still).stderr
    fails(debug(*still), 2, "same holds a run that differs in --from.")


@pytest.mark.fast
def test_from_what_does_not_fit_is_refused(debug, fails, work, tiny_run, tmp_path):
    fails(debug("--from", "nothing"), 2, "There is no model 'nothing'")
    fails(debug("--from", tiny_run, "--set", "model.size=micro"), 2, "networks of another shape than the recipe debug")
    (tmp_path / "random.safetensors").write_bytes(b"x" * 5000)
    fails(debug("--from", tmp_path / "random.safetensors"), 1, "is not a whole safetensors file")
    assert contents(work) == {}


# Stopping, going on


@pytest.mark.fast
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_stopped_run_says_how_to_go_on_and_does(debug, work, stopped_after, monkeypatch, name):
    """The same command ends with the bytes of a run that nobody stopped."""
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip("Windows has no such signal")
    monkeypatch.setattr(sys, "argv", ["spherectl", "train", "debug", "--data", "my images"])
    stopped_after(3, number)
    arguments = [*("--set", "run.length_images=40"), *("--set", "run.sample_images=40"), "--run-dir", "x"]
    result = debug(*arguments)
    assert (result.exit_code, result.stdout) == (signals.EXIT_CODES[number], "x/model.safetensors\n")
    assert "stopping: this step is finished and saved first (Ctrl-C again stops at once, unsaved)\n" in result.stderr
    assert "saved at 24 images in x; go on with: spherectl train debug --data 'my images'\n" in result.stderr
    assert read_header(work / "x" / "model.safetensors")["images_seen"] == 24
    assert debug(*arguments).exit_code == 0
    assert [line["step"] for line in metrics(work / "x")] == list(range(1, 6))
    if name == "SIGINT":
        assert debug(*arguments, "--run-dir", "whole").exit_code == 0
        assert (work / "x" / "model.safetensors").read_bytes() == (work / "whole" / "model.safetensors").read_bytes()


@pytest.mark.fast
def test_two_ctrl_c_in_a_second_are_one_and_a_later_one_stops_at_once(capsys, monkeypatch):
    """torchrun passes on what the terminal has sent to its processes already. Afterwards all is as before."""
    before = [signal.getsignal(number) for number in signals.EXIT_CODES]
    now = [100.0]
    with signals.stop_signals() as stopped:
        monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
        assert not stopped
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stopped[0] == signal.SIGINT
        now[0] += 1.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in signals.EXIT_CODES] == before
    assert capsys.readouterr().err.count("stopping: this step is finished and saved first") == 1


@pytest.mark.fast
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
def test_under_nohup_a_terminal_that_goes_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stop_signals() as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped
    finally:
        signal.signal(signal.SIGHUP, before)


# Mistakes, and failures of the world


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("imagenet",), 2, "There is no recipe 'imagenet'."),
        (("debug", "--set", "optim.lr=fast"), 2, "optim.lr: expected a number, got 'fast'"),
        (("debug", "--data", "empty"), 2, "No fashion-mnist in"),
        (("imagenet256", "--data", "few"), 2, "expects 1000 classes (model.num_classes); the data has 2"),
        (("imagenet256", "--dry-run", "--data", "nothing"), 2, "there is nothing of that name"),
        (("folder32", "--dry-run"), 2, "nothing to train on yet"),  # its classes are unknown
        (("debug", "--data", "few", "--run-dir", "file/below"), 1, "Cannot make the run folder file/below: "),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing(
    command, fails, work, class_folder, fashion_excerpt, arguments, code, said
):
    class_folder(2).rename(work / "few")
    (work / "empty").mkdir()
    (work / "file").write_text("kept")
    before = contents(work)
    if "--run-dir" in arguments:
        arguments = ("debug", "--data", fashion_excerpt, *arguments[-2:])
    fails(command("train", *arguments), code, said)
    assert contents(work) == before


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="RLIMIT_FSIZE is POSIX's")
def test_a_full_disk_leaves_the_last_checkpoint_whole(cli, debug, fashion_excerpt, work, stopped_after):
    """Files can grow to 1 MB only, checkpoints have 2.5: the next one fails and leaves nothing; the old one stands."""
    stopped_after(7)
    assert debug("--run-dir", "x").exit_code == 143
    before = contents(work)
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
from spherectl.cli.app import main
main()
"""
    full = cli.python("-c", script, "train", "debug", "--data", fashion_excerpt, "--run-dir", "x", cwd=work)
    assert full.returncode == 1, full.stderr
    (error,) = [line for line in full.stderr.splitlines() if line.startswith("error:")]
    assert error.startswith("error: Cannot write x/checkpoints/.000000000080.tmp/shard-00000-of-00001.safetensors: ")
    assert "Traceback" not in full.stderr
    after = contents(work)
    for name in ("x/model.safetensors", "x/checkpoints/000000000056/checkpoint.json", "x/recipe.toml"):
        assert after[name] == before[name]
    assert [path.name for path in (work / "x" / "checkpoints").iterdir()] == ["000000000056"]
    assert not [name for name in after if ".tmp" in name]
    assert debug("--run-dir", "whole").exit_code == debug("--run-dir", "x").exit_code == 0
    assert (work / "x" / "model.safetensors").read_bytes() == (work / "whole" / "model.safetensors").read_bytes()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, ["PASSIVE", "1"]), ({"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"}, ["ACTIVE", "0"])],
)
def test_waiting_threads_sleep_and_pages_are_huge_unless_told_otherwise(given, expected, cli):
    """Set before torch is imported, which reads it."""
    program = """
import atexit, os, sys
sys.modules["torch"] = None  # an import of it fails
atexit.register(lambda: print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("THP_MEM_ALLOC_ENABLE")))
from spherectl.cli.train import train
train("fashion-mnist")
"""
    set_here = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
    surroundings = {name: value for name, value in cli.environment().items() if name not in set_here} | given
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert "import of torch halted" in done.stderr
    assert done.stdout.split() == expected
