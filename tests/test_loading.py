"""What it costs to begin: a process's start, compared with torch's alone; a model's file, mapped and hashed late."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl import api
from spherectl.model import weights

STARTS, FEWEST = 15, 3
SAMPLE = ("-m", "spherectl", "sample", "--model", "fashion-mnist", "--count", "1", "--steps", "1", "--out", "x.png")


@pytest.mark.slow
def test_a_first_picture_takes_at_most_twice_the_import_of_torch(cli):
    """The quickest of several starts each, taken in turns: what else the machine does slows both, so more are taken."""

    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], env=cli.environment(), cwd=cli.folder, capture_output=True, check=True
        )
        return time.perf_counter() - began

    seconds(*SAMPLE)  # the first on a machine may compile the kernels
    drawn, imported = [], []
    for start in range(STARTS):
        drawn.append(seconds(*SAMPLE))
        imported.append(seconds("-c", "import torch"))
        if start + 1 >= FEWEST and min(drawn) <= 2 * min(imported):
            break
    assert min(drawn) <= 2 * min(imported), (drawn, imported)


def mappings(tensors: Any) -> dict[str, set[str]]:
    """For each tensor's storage, the files whose pages it lies in."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    areas = [(*(int(end, 16) for end in line[0].split("-")), line[5]) for line in lines if len(line) == 6]
    return {
        name: {file for start, end, file in areas if start <= tensor.data_ptr() < end}
        for name, tensor in tensors.items()
    }


@pytest.fixture
def package(tmp_path: Path, tiny_run: Path) -> weights.Package:
    """The tiny model, with both sets of weights."""
    read = weights.read_package(tiny_run / "model.safetensors")
    return weights.Package(read.header, read.weights, {name: 2 * tensor for name, tensor in read.weights.items()})


@pytest.mark.fast
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_weights_are_mapped_from_our_files(tmp_path, package):
    """In float32 the networks compute on the file's own pages: nothing is copied, and `raw` is not even read."""
    file = tmp_path / "model.safetensors"
    weights.write_package(file, package)
    model = api.load(file, device="cpu", dtype="float32")
    parameters = dict(model.network.named_parameters())
    assert len(parameters) > 50
    assert set.union(*mappings(parameters).values()) == {str(file)}


@pytest.mark.fast
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_weights_are_mapped_from_published_checkpoints(tmp_path, package):
    weights.write_published(tmp_path, package)
    read = weights.read_published(tmp_path)
    assert set.union(*mappings(read.weights).values()) == {str(weights.newest_checkpoint(tmp_path))}


@pytest.mark.fast
def test_a_mapped_model_may_be_changed_without_its_file(tmp_path, package):
    file = tmp_path / "model.safetensors"
    weights.write_package(file, package)
    before = file.read_bytes()
    model = api.load(file, device="cpu", dtype="float32")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    assert file.read_bytes() == before


@pytest.mark.fast
def test_an_old_checkpoint_that_cannot_be_mapped_is_read(tmp_path, package):
    """Until 1.6 torch wrote no zip files; some still go round."""
    weights.write_published(tmp_path, package)
    path = weights.newest_checkpoint(tmp_path)
    expected = weights.read_published(tmp_path).weights
    state = torch.load(path, weights_only=True)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    path.unlink()
    (tmp_path / "old.pth").rename(path)
    read = weights.read_published(tmp_path).weights
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in expected)


@pytest.mark.fast
def test_the_hash_is_of_what_was_loaded(tmp_path, package):
    """Also where a training has replaced the file since."""
    file = tmp_path / "model.safetensors"
    weights.write_package(file, package)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    model = api.load(file, device="cpu")
    weights.write_package(file, weights.Package(package.header, package.weights))
    assert api.model_hash(file) != digest
    assert (model.sha256, model.sha256) == (digest, digest)
