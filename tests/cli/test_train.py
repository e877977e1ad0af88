"""`spherectl train`: what it says, what it writes, how it stops and goes on; every mistake in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from PIL import Image

from spherectl.cli import signals
from spherectl.model.formats import weights
from spherectl.model.formats.header import read_header
from spherectl.settings import load_settings, packaged
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
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`stopped_after(12)`: the next training gets SIGTERM in its step 12."""

    def arm(steps: int) -> None:
        class Signals(list[int]):
            asked = 0

            def __bool__(self) -> bool:
                self.asked += 1
                return self.asked >= steps

        @contextmanager
        def stopped() -> Iterator[list[int]]:
            monkeypatch.setattr(signals, "stop_signals", real)
            yield Signals([signal.SIGTERM])

        real = signals.stop_signals
        monkeypatch.setattr(signals, "stop_signals", stopped)

    return arm


@pytest.fixture
def class_folder(tmp_path: Path) -> Callable[..., Path]:
    """`class_folder(1000)`: a folder of so many class folders, each with a tiny image of its own colour."""

    def make(classes: int, images: int = 1) -> Path:
        folder = tmp_path / "images"
        for number in range(classes):
            below = folder / f"class-{number:04d}"
            below.mkdir(parents=True)
            for image in range(images):
                Image.new("RGB", (8, 8), (number % 256, number // 4 % 256, 60 * image)).save(below / f"{image}.png")
        return folder

    return make


# What a training leaves and says


@pytest.mark.fast
def test_a_run_leaves_what_the_design_names(debug, work):
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
    assert {path.name for path in run.iterdir()} >= {"recipe.toml", "run.json", "model.safetensors"}
    sampled = [f"{images:012d}{kind}.png" for images in (80, 160) for kind in ("", "-reconstructions")]
    assert sorted(path.name for path in (run / "samples").iterdir()) == sorted(sampled)
    assert len(list((run / "checkpoints").iterdir())) == 2


@pytest.mark.fast
def test_train_then_sample_then_like_need_no_option(debug, command, work):
    assert debug("--set", "run.default=true").stderr.endswith("sample from it: spherectl sample\n")
    sampled = command("sample", "--class", "sneaker")
    assert sampled.exit_code == 0
    assert sampled.stderr.startswith("model: runs/debug (newest run)\n")
    assert "pixel for pixel" in command("sample", "--like", sampled.stdout.strip()).stderr


@pytest.mark.fast
def test_a_finished_run_says_so_and_changes_nothing(debug, work):
    debug("--run-dir", "x")
    before = contents(work)
    result = debug("--run-dir", "x")
    assert (result.exit_code, result.stdout) == (0, "x/model.safetensors\n")
    assert "x is finished: 160 images seen; --run-dir another folder trains anew" in result.stderr
    assert contents(work).keys() == before.keys()
    changed = {name for name, value in contents(work).items() if value != before[name]}
    assert changed <= {"x/run.json"}  # says what it last ran on


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


@pytest.mark.fast
def test_set_changes_keys(debug, work):
    arguments = ["--set", "run.length_images=24", "--set", "optim.lr=2e-4", "--set", "sample.noise=fresh"]
    assert debug(*arguments, "--set", "name=mine", "--set", "optim.warmup_images=0").exit_code == 0
    header = read_header(work / "runs" / "mine" / "model.safetensors")
    assert header["recipe"]["sample"]["noise"] == "fresh"
    lines = metrics(work / "runs" / "mine")
    assert len(lines) == 3
    assert lines[0]["lr"] == pytest.approx(2e-4)


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
    faces = command("train", "animal-faces256", "--dry-run")
    for text in ("not here; 14,630 images as published", "14,630,144", "57,149 of 256"):
        assert text in faces.stdout
    text = (packaged("recipes") / "animal-faces256.toml").read_text(encoding="utf-8")
    (work / "own.toml").write_text(text.replace('kind = "animal-faces"', 'kind = "folder"'), encoding="utf-8")
    unknown = command("train", "own.toml", "--dry-run")
    (work / "own.toml").unlink()
    assert "not known without the data" in unknown.stdout
    assert contents(work) == {}


@pytest.mark.fast
def test_a_dry_run_with_data_that_is_wrong_is_an_error(command, fails):
    fails(command("train", "imagenet256", "--dry-run", "--data", "nothing"), 2, "there is nothing of that name")
    fails(command("train", "folder32", "--dry-run"), 2, "nothing to train on yet")  # its classes are unknown


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
def test_without_data_one_sentence_says_where_it_goes(command, fails, files, work):
    place = load_settings().data / "imagenet"
    said = fails(command("train", "recipes/imagenet256.toml"), 2, str(place), "--data PATH", "--smoke")
    assert said == (
        f"error: There is nothing to train on yet: put the images of imagenet, one folder a class, into {place} "
        "or name another place with --data PATH (add --smoke to try three steps first)."
    )
    assert contents(work) == {}


# Fine-tuning


@pytest.mark.fast
def test_from_starts_at_the_weights_of_the_model(debug, work, tiny_run):
    """With steps of no length the run ends where it began: at the model's weights, bit for bit."""
    still = ["--set", "optim.lr=1e-40", "--set", "optim.min_lr=0", "--set", "run.length_images=16"]
    result = debug("--from", tiny_run, *still, "--run-dir", "same")
    assert result.exit_code == 0, result.stderr
    assert f"from: {tiny_run / 'model.safetensors'}, 100.0% of the weights\n" in result.stderr
    start = weights.read_package(tiny_run / "model.safetensors")
    tuned = weights.read_package(work / "same" / "model.safetensors")
    for name, tensor in start.weights.items():
        assert torch.equal(tuned.weights[name], tensor), name
    assert tuned.header["parent"] == hashlib.sha256((tiny_run / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((work / "same" / "run.json").read_text())["parent"] == tuned.header["parent"]


@pytest.mark.fast
def test_from_takes_only_weights_of_equal_shape(debug, work, tiny_run):
    still = ["--set", "optim.lr=1e-40", "--set", "optim.min_lr=0", "--set", "run.length_images=16"]
    result = debug("--from", tiny_run, *still, "--set", "model.compression_ratio=12", "--run-dir", "wider")
    assert result.exit_code == 0, result.stderr
    start = weights.read_package(tiny_run / "model.safetensors").weights
    tuned = weights.read_package(work / "wider" / "model.safetensors").weights
    other = [name for name, tensor in tuned.items() if tensor.shape != start[name].shape]
    assert "decoder.x_embedder.0.weight" in other
    assert f"% of the weights; {len(other)} tensors start anew\n" in result.stderr
    for name in tuned.keys() - set(other):
        assert torch.equal(tuned[name], start[name]), name
    assert not torch.equal(tuned["decoder.x_embedder.0.weight"][:, :8], start["decoder.x_embedder.0.weight"])


@pytest.mark.fast
def test_from_is_part_of_what_a_run_is(debug, fails, work, tiny_run):
    short = ["--set", "run.length_images=16", "--run-dir", "x"]
    assert debug("--from", tiny_run, *short).exit_code == 0
    assert "is finished" in debug("--from", tiny_run, *short).stderr
    fails(debug(*short), 2, "x holds a run that differs in --from.")


@pytest.mark.fast
def test_from_what_does_not_fit_is_refused(debug, fails, work, tiny_run, tmp_path):
    fails(debug("--from", "nothing"), 2, "There is no model 'nothing'")
    fails(debug("--from", tiny_run, "--set", "model.size=micro"), 2, "networks of another shape than the recipe debug")
    (tmp_path / "random.safetensors").write_bytes(b"x" * 5000)
    fails(debug("--from", tmp_path / "random.safetensors"), 1, "is not a whole safetensors file")
    assert contents(work) == {}


# Stopping, going on


@pytest.mark.fast
def test_a_stopped_run_says_how_to_go_on_and_does(debug, work, stopped_after, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spherectl", "train", "debug", "--data", "my images"])
    stopped_after(7)
    result = debug("--run-dir", "x")
    assert (result.exit_code, result.stdout) == (143, "x/model.safetensors\n")
    assert "saved at 56 images in x; go on with: spherectl train debug --data 'my images'\n" in result.stderr
    assert debug("--run-dir", "whole").exit_code == 0
    assert debug("--run-dir", "x").exit_code == 0
    assert (work / "x" / "model.safetensors").read_bytes() == (work / "whole" / "model.safetensors").read_bytes()
    assert [line["step"] for line in metrics(work / "x")] == list(range(1, 21))


@pytest.mark.fast
def test_a_second_ctrl_c_stops_at_once(capsys):
    """The first signal is noted, a second SIGTERM is nothing new, a second Ctrl-C ends; afterwards all is as before."""
    before = [signal.getsignal(number) for number in signals.EXIT_CODES]
    with signals.stop_signals() as stopped:
        assert not stopped
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stopped[0] == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in signals.EXIT_CODES] == before
    assert capsys.readouterr().err.count("stopping: this step is finished and saved first") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGUSR1, 75), (signal.SIGHUP, 129)],  # Ctrl-C and SIGTERM: test_streams
)
def test_signals_save_and_the_same_command_goes_on(cli, command, fashion_excerpt, work, number, code):
    arguments = ["train", "debug", "--data", str(fashion_excerpt), "--set", "run.length_images=800", "--run-dir", "x"]
    arguments += ["--set", "run.checkpoint_images=800", "--set", "run.sample_images=800"]
    process = cli.start(*arguments, cwd=work)
    wait_for(lambda: steps_so_far(work / "x") > 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    seen = metrics(work / "x")[-1]["images_seen"]
    assert seen < 800
    assert stdout == "x/model.safetensors\n"
    assert "stopping: this step is finished and saved first (Ctrl-C again stops at once, unsaved)\n" in stderr
    assert f"saved at {seen:,} images in x; go on with: spherectl {' '.join(arguments)}\n" in stderr
    assert "Traceback" not in stderr
    assert read_header(work / "x" / "model.safetensors")["images_seen"] == seen
    result = command(*arguments)
    assert result.exit_code == 0, result.stderr
    assert [line["step"] for line in metrics(work / "x")] == list(range(1, 101))


def steps_so_far(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "it took two minutes"
        time.sleep(0.05)


@pytest.mark.fast
def test_two_processes_in_one_run_are_refused(debug, fails, work, stopped_after):
    stopped_after(5)
    debug("--run-dir", "x")
    before = contents(work)
    with filelock.FileLock(work / "x" / ".lock"):
        fails(debug("--run-dir", "x"), 1, "Another process is training in x.")
    assert contents(work) == before
    assert debug("--run-dir", "x").exit_code == 0


@pytest.mark.fast
def test_another_recipe_in_the_folder_names_the_keys(debug, fails, work, stopped_after):
    stopped_after(5)
    debug("--run-dir", "x")
    before = contents(work)
    said = fails(debug("--run-dir", "x", "--set", "optim.lr=2e-3", "--set", "run.seed=1", "--set", "data.flip=true"), 2)
    assert said == "error: x holds a run that differs in data.flip, optim.lr, run.seed."
    assert contents(work) == before


# Mistakes, and failures of the world


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("imagenet",), 2, "There is no recipe 'imagenet'."),
        (("debug", "--set", "optim.lr=fast"), 2, "optim.lr: expected a number, got 'fast'"),
        (("folder32", "--data", "absent"), 2, "Expected a folder of images at"),
        (("debug", "--data", "empty"), 2, "No fashion-mnist in"),
        (("imagenet256", "--data", "few"), 2, "expects 1000 classes (model.num_classes); the data has 2"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing(command, fails, work, class_folder, arguments, code, said):
    class_folder(2).rename(work / "few")
    (work / "empty").mkdir()
    (work / "broken.toml").write_text("name = ")
    before = contents(work)
    fails(command("train", *arguments), code, said)
    assert contents(work) == before


@pytest.mark.fast
def test_a_broken_image_is_named_and_once_repaired_the_run_goes_on(command, fails, work, class_folder):
    folder = class_folder(2, images=4)
    whole = (folder / "class-0001" / "2.png").read_bytes()
    (folder / "class-0001" / "2.png").write_bytes(whole[:50])
    arguments = ["train", "folder32", "--data", folder, "--set", "model.size=nano", "--set", "run.batch_size=4"]
    arguments += ["--set", "run.length_images=16", "--set", "loss.perceptual=none", "--set", "run.dtype=float32"]
    arguments += ["--set", "data.workers=0", "--run-dir", "x"]
    said = fails(command(*arguments), 1)
    assert said.startswith(f"error: Cannot read the image {folder / 'class-0001' / '2.png'}: ")
    (folder / "class-0001" / "2.png").write_bytes(whole)
    result = command(*arguments)
    assert result.exit_code == 0, result.stderr
    assert [line["step"] for line in metrics(work / "x")] == [1, 2, 3, 4]


@pytest.mark.fast
def test_images_of_kinds_that_are_not_read_are_counted(command, class_folder):
    folder = class_folder(2, images=4)
    for name in ("class-0000/a.heic", "class-0001/b.HEIC", "class-0001/c.svg", "class-0001/._d.svg", "notes.txt"):
        (folder / name).touch()
    result = command("train", "folder32", "--data", folder, "--set", "model.size=nano", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert f"{folder}: 2 .heic, 1 .svg left out; images are .png .jpg" in " ".join(result.stderr.split())


@pytest.mark.fast
@pytest.mark.parametrize("run", ["file", "file/below", "/proc/spherectl/run"])
def test_a_run_folder_that_cannot_be_made_is_a_sentence(debug, fails, work, run):
    """/proc stands for read-only folders: it refuses a superuser too."""
    if run.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    (work / "file").write_text("kept")
    fails(debug("--run-dir", run), 1, f"Cannot make the run folder {run}: ")
    assert list(contents(work)) == ["file"]
    assert (work / "file").read_text() == "kept"


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
    arguments = ["train", "debug", "--data", str(fashion_excerpt), "--run-dir", "x"]
    full = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=work,
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1, full.stderr
    errors = [line for line in full.stderr.splitlines() if line.startswith("error:")]
    assert errors[0].startswith(
        "error: Cannot write x/checkpoints/.000000000080.tmp/shard-00000-of-00001.safetensors: "
    )
    assert len(errors) == 1
    assert "Traceback" not in full.stderr
    after = contents(work)
    for name in ("x/model.safetensors", "x/checkpoints/000000000056/checkpoint.json", "x/recipe.toml"):
        assert after[name] == before[name]
    assert [path.name for path in (work / "x" / "checkpoints").iterdir()] == ["000000000056"]
    assert not [name for name in after if ".tmp" in name]
    assert debug("--run-dir", "whole").exit_code == debug("--run-dir", "x").exit_code == 0
    assert (work / "x" / "model.safetensors").read_bytes() == (work / "whole" / "model.safetensors").read_bytes()
    assert [line["step"] for line in metrics(work / "x")] == list(range(1, 21))


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
    surroundings = cli.environment(given)
    if not given:
        for name in ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE"):
            surroundings.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=surroundings, capture_output=True, text=True, check=False
    )
    assert "import of torch halted" in done.stderr
    assert done.stdout.split() == expected
