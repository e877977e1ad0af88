"""Published checkpoint folders that are none: one sentence each, nothing executed, nothing allocated, no warning."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import resource
import shutil
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl.errors import FileError
from spherectl.model.formats import published
from spherectl.model.formats.published import read
from spherectl.model.formats.weights import instantiate, read_package

pytestmark = pytest.mark.fast

CFG = list(published.Cfg.model_fields)


@pytest.fixture
def folder(tmp_path: Path, reference: Path) -> Path:
    """A copy of the reference's folder."""
    shutil.copytree(reference / "published-layout", tmp_path / "c", copy_function=shutil.copyfile)
    return tmp_path / "c"


def checkpoint(folder: Path) -> Path:
    return folder / "ckpt" / "ep0007.pth"


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(checkpoint(folder), weights_only=True)
    return found


def refused(folder: Path) -> str:
    """The sentence, which comes soon, with little memory and without a warning."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileError) as caught:
            instantiate(read_package(folder))
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    message = caught.value.message
    assert message.isprintable()
    assert len(message) < 400 + len(str(folder))
    return message


def test_a_cfg_that_lacks_a_key_or_has_another_type_is_a_sentence(folder: Path) -> None:
    cfg = json.loads((folder / "cfg.json").read_text())
    checkpoint(folder).unlink()  # cfg.json alone is enough to refuse it
    for key in CFG:
        for value in (10**30, "x" * 100_000, {"a": {"b": 1}}):
            (folder / "cfg.json").write_text(json.dumps({**cfg, key: value}))
            refused(folder)
        if key not in ("dataset_name", "epochs", "noise_sigma_max_angle"):
            (folder / "cfg.json").write_text(json.dumps({k: v for k, v in cfg.items() if k != key}))
            assert f"{key} is missing" in refused(folder)


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A checkpoint as torch lays it out, around a pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **records}.items():
            file.writestr(f"archive/{name}", data)
    return content.getvalue()


def called(what: Callable[..., Any], *arguments: Any) -> bytes:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return what, arguments

    return pickle.dumps({"model": Call()}, protocol=2)


PICKLES = {
    "stack": b"\x80\x02.",
    "memo": b"\x80\x02h\xff.",
    "empty": b"",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 8 << 30) + b".",
    "long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "called bytearray": called(bytearray, 8 << 30),
    "called tensor": called(torch.Tensor, 1 << 33),
    "called storage": called(torch.UntypedStorage, 8 << 30),
    "counter": called(collections.Counter, "a"),
    "command": called(os.system, "exit 1"),
    "many": b"\x80\x02" + b"](" * 150_000 + b".",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "list": pickle.dumps([1, 2], protocol=2),
    "number": pickle.dumps(7, protocol=2),
    "no end": b"\x80\x02]",
}


def test_archives_that_promise_more_than_they_have(folder: Path) -> None:
    good = pickle.dumps({"model": {}}, protocol=2)
    checkpoint(folder).write_bytes(archive(good, zipfile.ZIP_DEFLATED, **{"data/0": bytes(20 << 20)}))
    assert "compressed" in refused(folder)
    whole = archive(good)
    size, place = struct.pack("<I", len(good)), whole.index(b"PK\x01\x02")
    checkpoint(folder).write_bytes(whole[:place] + whole[place:].replace(size * 2, struct.pack("<I", 1 << 31) * 2, 1))
    assert "not a readable checkpoint" in refused(folder)
    for damaged in (whole[:-10], whole[: len(whole) // 2], b"PK\x03\x04" + bytes(100)):
        checkpoint(folder).write_bytes(damaged)
        assert "not a readable checkpoint" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [{"model": None}, {"model": {}, "ema_model": {}}, {"ema_model": {"a": None}}, {"epoch": "7"}, {"epoch": 10**30}],
    ids=str,
)
def test_states_of_any_type(changes: dict[str, Any], folder: Path) -> None:
    torch.save({**state(folder), **changes}, checkpoint(folder))
    refused(folder)


def test_weights_are_finite_floating_point_numbers(folder: Path) -> None:
    found = state(folder)
    weights, name = found["ema_model"], sorted(found["ema_model"])[5]
    for bad in (weights[name].long(), weights[name].to(torch.complex64), torch.full_like(weights[name], torch.nan)):
        torch.save({**found, "ema_model": {**weights, name: bad}}, checkpoint(folder))
        assert name in refused(folder) or bad.dtype == torch.complex64  # which the pickle's check refuses before


def test_what_a_training_saves_besides_is_left_alone(folder: Path) -> None:
    found, expected = state(folder), read(folder)
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}
    optimiser = {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95), "fused": None, "params": [0]}]}
    said = {"x": [None, True, (1, 2)], "n": "ü", "on": torch.device("cpu"), "b": b"\xff", "t": torch.bfloat16}
    torch.save({**found, "optimizer": optimiser, "args": said}, checkpoint(folder))
    again = read(folder)
    assert again.header == expected.header
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in expected.weights.items())


def test_a_second_sphere_encoder_is_told_by_its_cfg_or_its_tensors(folder: Path) -> None:
    cfg, found = json.loads((folder / "cfg.json").read_text()), state(folder)
    said = f"{folder} is a Sphere Encoder 2 checkpoint, which this version does not read yet."
    for key in ("use_angle_condition", "load_pretrained_encoder", "use_qk_norm"):
        (folder / "cfg.json").write_text(json.dumps({**cfg, key: True}))
        assert refused(folder) == said
    (folder / "cfg.json").write_text(json.dumps(cfg))
    for name in ("decoder.alpha_embedder.mlp.0.weight", "encoder.encoder.embeddings.cls_token"):
        torch.save({**found, "model": {**found["model"], name: torch.zeros(1)}}, checkpoint(folder))
        assert refused(folder) == said
