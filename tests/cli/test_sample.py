"""`spherectl sample`: which model, which classes, where to, and what the images say; every mistake in a sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from spherectl import api, zoo
from spherectl.cli import sample as command_file
from spherectl.data.transforms import to_uint8
from spherectl.images import read_provenance
from spherectl.model import kernels
from spherectl.model.formats import weights
from spherectl.model.formats.layouts import PUBLISHED
from spherectl.settings import load_settings

DESIGNS_SENTENCE = (
    "error: fashion-mnist has 10 classes (0-9: t-shirt ... ankle-boot); 207 needs a 1000-class model: "
    "`spherectl zoo fetch sphere-l-imagenet`, or `spherectl train recipes/imagenet256.toml`.\n"
)


# Where to


@pytest.mark.fast
def test_grid_folder_and_arrays_hold_the_same_images(command, run_here, work, pixels):
    classes = ("--class", "bag", "--class", "2-3,AnkLe")
    arguments = (*classes, "--count", 7, "--seed", 5, "--steps", 4, "--guidance", 1.5)
    for out in ("grid.png", "folder", "arrays.npz"):
        result = command("sample", *arguments, "--out", out)
        assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.stderr
    model = api.load(run_here, device="cpu")
    (expected,) = api.generate(model, 7, classes=["bag", 2, 3, 9], seed=5, steps=4, guidance=1.5)
    expected = to_uint8(expected.images).permute(0, 2, 3, 1).numpy()
    with np.load(work / "arrays.npz", allow_pickle=False) as arrays:
        assert (arrays["arr_0"].dtype, arrays["arr_0"].shape) == (np.uint8, (7, 32, 32, 3))
        assert (arrays["arr_1"].dtype, arrays["arr_1"].tolist()) == (np.int64, [8, 2, 3, 9, 8, 2, 3])
        assert np.array_equal(arrays["arr_0"], expected)
    names = sorted(path.name for path in (work / "folder").iterdir())
    assert names == [f"{i:06d}.png" for i in range(7)]
    assert np.array_equal(np.stack([pixels(work / "folder" / name) for name in names]), expected)
    sheet = pixels(work / "grid.png")
    assert sheet.shape == (2 * 34 - 2, 4 * 34 - 2, 3)  # a column a class
    shown = [sheet[i // 4 * 34 :, i % 4 * 34 :][:32, :32] for i in range(7)]
    assert np.array_equal(np.stack(shown), expected)


@pytest.mark.fast
def test_without_out_a_new_name_is_made_every_time(command, run_here, work, files):
    names = []
    for seed in (0, 0, 0, 4):
        result = command("sample", "--count", 4, "--seed", seed)
        names.append(result.stdout.strip())
        if seed == 0:
            contents = (work / names[0]).read_bytes()
    assert names == ["tiny-seed0.png", "tiny-seed0-1.png", "tiny-seed0-2.png", "tiny-seed4.png"]
    assert files() == sorted(names)
    assert (work / names[0]).read_bytes() == contents == (work / names[2]).read_bytes()
    assert contents != (work / names[3]).read_bytes()


@pytest.mark.fast
def test_out_replaces_what_it_names_and_nothing_else(command, run_here, work, pixels):
    (work / "folder").mkdir()
    for name in ("000000.png", "000009.png", "notes.txt"):
        (work / "folder" / name).write_text("old")
    result = command("sample", "--count", 2, "--out", "folder")
    assert "folder holds 1 other PNG file as well" in result.stderr
    assert pixels(work / "folder" / "000000.png").shape == (32, 32, 3)
    assert (work / "folder" / "000009.png").read_text() == (work / "folder" / "notes.txt").read_text() == "old"


@pytest.mark.fast
def test_a_place_is_refused_before_a_model_is_loaded(command, fails, files, monkeypatch):
    monkeypatch.setattr(api, "load_found", lambda *_a, **_k: pytest.fail("loaded a model"))
    fails(command("sample", "--out", "a.jpg"), 2, "Expected a .png (a grid), an .npz (arrays) or a folder")
    assert files() == []


# Classes and count


@pytest.mark.fast
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("snaeker", "tiny has 10 classes (0-9: t-shirt ... ankle-boot); none is called 'snaeker'."),
        ("golden retriever", "golden retriever needs a 1000-class model: `spherectl zoo fetch sphere-l-imagenet`"),
        ("50", "50 needs a 102-class model: `spherectl zoo fetch sphere-l-of`"),
        ("5000", "tiny has 10 classes (0-9: t-shirt ... ankle-boot); there is no class 5000."),
    ],
)
def test_a_wrong_class_is_a_sentence(command, run_here, files, asked, said, fails):
    fails(command("sample", "--class", asked), 2, said)
    assert files() == []


@pytest.mark.slow
def test_on_a_fresh_install_the_embedded_model_samples(cli, pixels):
    """With the files that travel with the package, in a process of its own."""
    sampled = cli("sample", "--count", 20, "--json")
    assert sampled.returncode == 0, sampled.stderr
    assert json.loads(sampled.stdout)["model"] == "fashion-mnist"
    assert "model: fashion-mnist (the zoo's default" in sampled.stderr
    assert pixels(cli.folder / "fashion-mnist-seed0.png").std() > 20  # garments, no grey
    asked = cli("sample", "--class", "207", "--steps", "2")
    assert asked.returncode == 2
    assert asked.stderr.endswith(DESIGNS_SENTENCE)
    assert asked.stdout == ""


# A remote model that can be fetched


@pytest.fixture
def remote(own_zoo: Path, tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A zoo index of the user's own, with a 12-class model that can be fetched; `asked` collects questions."""
    package = weights.read_package(tiny_run / "model.safetensors")
    file = tmp_path / "dozen.safetensors"
    tensors = {name: torch.cat((t, t[:2])) if "embedding_table" in name else t for name, t in package.weights.items()}
    recipe = package.recipe.replace(model={"num_classes": 12}).to_table()
    weights.write_package(file, weights.Package({**package.header, "recipe": recipe, "class_names": []}, tensors))
    entry = {"name": "dozen", "kind": "model", "urls": ["https://example.org/dozen.safetensors"], "licence": "MIT"}
    entry |= {"sha256": api.model_hash(file), "bytes": file.stat().st_size, "summary": "A dozen.", "channels": "grey"}
    index = tmp_path / "index.toml"
    index.write_text(tomli_w.dumps({"entry": [entry | {"image_size": 32, "classes": 12}]}))
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(index))
    found = SimpleNamespace(file=file, asked=[], answer=True, fetched=[])

    def confirm(question: str, **_named: Any) -> bool:
        found.asked.append(question)
        return found.answer

    def fetch(entry: zoo.Entry, settings: Any, _progress: Any, **consent: bool) -> None:
        assert consent == {"trust": True, "accept": True}  # the question named source and licence
        found.fetched.append(entry.name)
        place = entry.path(settings)
        place.parent.mkdir(parents=True)
        shutil.copy(file, place)

    monkeypatch.setattr(command_file.typer, "confirm", confirm)
    monkeypatch.setattr(zoo, "fetch", fetch)
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    person = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(command_file, "sys", SimpleNamespace(stdin=person, stderr=person))


@pytest.mark.fast
def test_a_person_is_asked_once_and_the_fetched_model_samples(command, remote, terminal, work):
    result = command("sample", "--class", 11, "--count", 2, "--out", "a.png")
    assert result.exit_code == 0, result.stderr
    size = f"{remote.file.stat().st_size / 1e6:.0f} MB"
    assert remote.asked == [f"Fetch dozen ({size}, licence MIT) from https://example.org/dozen.safetensors?"]
    assert remote.fetched == ["dozen"]
    assert "11 needs a 12-class model" in result.stderr
    assert read_provenance(work / "a.png")["class"] == [11, 11]


@pytest.mark.fast
@pytest.mark.parametrize("a_person", [True, False])
def test_who_declines_or_cannot_be_asked_gets_the_sentence(command, remote, files, fails, request, a_person):
    if a_person:
        request.getfixturevalue("terminal")
    remote.answer = False
    said = fails(command("sample", "--class", 11), 2)
    assert said.endswith("11 needs a 12-class model: `spherectl zoo fetch dozen`.")
    assert (len(remote.asked), remote.fetched, files()) == (int(a_person), [], [])


@pytest.mark.fast
def test_a_model_that_is_here_is_named(command, remote, terminal, fails):
    place = load_settings().cache / "zoo" / "dozen.safetensors"
    place.parent.mkdir(parents=True)
    shutil.copy(remote.file, place)
    fails(command("sample", "--class", 11), 2, "11 needs a 12-class model: `--model dozen` is one.")
    assert remote.asked == []


# Which model


@pytest.mark.fast
def test_json_is_all_of_stdout(command, run_here):
    result = command("sample", "--count", 3, "--out", "folder", "--json", "--dtype", "float32")
    assert json.loads(result.stdout) == {
        "out": "folder",
        "files": 3,
        "model": "tiny",
        "sha256": api.model_hash(run_here / "model.safetensors"),
        "seed": 0,
        "steps": 2,
        "guidance": 1.0,
        "guide": "both",
        "noise": "shared",
        "strength": "constant",
        "noise_deg": "training",
    }
    settings = "steps 2, guidance 1, guide both, noise shared, strength constant, noise-deg training, seed 0, float32"
    assert result.stderr.splitlines()[1] == f"settings: {settings}"


@pytest.mark.fast
def test_a_file_is_hashed_once_and_only_if_it_is_asked_for(command, run_here, monkeypatch):
    """Not for images that say nothing; for others once, however many they are."""
    real, hashed = api.files.file_hash, []

    def counted(file: Any) -> str:
        hashed.append(file)
        return real(file)

    monkeypatch.setattr(api.files, "file_hash", counted)
    assert command("sample", "--count", 3, "--no-provenance", "--out", "folder").exit_code == 0
    assert hashed == []
    assert command("sample", "--count", 3, "--out", "folder", "--json").exit_code == 0
    assert len(hashed) == 1


@pytest.mark.fast
def test_raw_weights_are_a_runs_alone(command, run_here, work, files, fails, pixels):
    command("sample", "--count", 1, "--out", "ema.png")
    assert command("sample", "--count", 1, "--out", "raw.png", "--weights", "raw").exit_code == 0
    assert not np.array_equal(pixels(work / "ema.png"), pixels(work / "raw.png"))
    assert read_provenance(work / "raw.png")["weights"] == "raw"
    raw = next(api.generate(api.load(run_here, device="cpu", weights="raw"), 1)).images
    assert np.array_equal(pixels(work / "raw.png"), to_uint8(raw)[0].permute(1, 2, 0))
    shutil.copy(run_here / "model.safetensors", work / "model.safetensors")
    before = files()
    fails(command("sample", "--weights", "raw", "--model", "model.safetensors"), 2, "averaged (EMA) weights only")
    assert files() == before


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", str(2**64)), "'--seed': Input should be less than or equal to 18446744073709551615"),
        (("--model", "sphere-l-imagenet"), "sphere-l-imagenet is not on this machine yet."),
        (("--model", "fashion-features"), "generates no images"),
    ],
)
def test_a_wrong_option_is_a_sentence(command, own_zoo, run_here, files, arguments, said, fails):
    fails(command("sample", *arguments), 2, said)
    assert files() == []


# Files that are no models


class Payload:
    """What a malicious checkpoint does when it is unpickled: here it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.fast
def test_a_malicious_checkpoint_is_not_executed(command, tiny_run, work, fails):
    package = weights.read_package(tiny_run / "model.safetensors")
    PUBLISHED.write(work / "theirs", package)
    assert command("sample", "--model", "theirs", "--count", 1, "--steps", 1, "--out", "a.png").exit_code == 0
    (checkpoint,) = (work / "theirs" / "ckpt").iterdir()
    marker = work / "executed"
    torch.save({"model": Payload(marker), "epoch": 0}, checkpoint)
    torch.load(checkpoint, weights_only=False)
    assert marker.exists()  # it would be, by the usual way of reading
    marker.unlink()
    fails(command("sample", "--model", "theirs"), 1, "holds more than tensors, which is never executed here")
    checkpoint.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    fails(command("sample", "--model", "theirs"), 1, "is not a readable checkpoint")
    assert not marker.exists()


# What decides the bytes of images


@pytest.mark.fast
@pytest.mark.parametrize("dtype", ["float32", *(["bfloat16", "int8"] if kernels.available() else [])])
def test_the_same_seed_gives_the_same_bytes(command, run_here, work, dtype):
    """Whatever --batch, --count and --threads, alone and in a grid."""
    settings = ("--steps", 3, "--guidance", 1.5, "--noise", "fresh", "--dtype", dtype)

    def sampled(out: str, **options: int) -> list[bytes]:
        given = [text for name, value in options.items() for text in (f"--{name}", value)]
        assert command("sample", "--class", "7,2", *settings, *given, "--out", out).exit_code == 0
        paths = [work / out] if out.endswith(".png") else sorted((work / out).iterdir())
        return [path.read_bytes() for path in paths]

    expected = sampled("folder", count=3, batch=64, threads=1)
    assert len(set(expected)) == 3  # all differ, so that equality means something
    assert sampled("more", count=5, batch=2, threads=2)[:3] == expected
    assert sampled("a.png", count=3, batch=64, threads=1) == sampled("b.png", count=3, batch=2, threads=1)
