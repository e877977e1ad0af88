"""`spherectl sample --compile`: what images say of it, that --like repeats it, and where it is refused."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from spherectl.images import read_provenance


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the batches that networks are traced for; they run as traced, which takes no compiler."""
    sizes: list[int] = []

    def keep(graph, inputs, **_options):
        sizes.append(max(one.shape[0] for one in inputs if one.dim() == 1 and one.dtype == torch.int64))
        return graph.forward

    import torch._dynamo

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=keep))
    yield sizes
    torch._dynamo.reset()


@pytest.mark.slow
def test_images_say_that_they_were_compiled_and_like_compiles_too(command, run_here, work, traced):
    arguments = ("--compile", "--dtype", "float32", "--device", "cpu", "--steps", 2)
    result = command("sample", *arguments, "--count", 7, "--batch", 5, "--out", "folder")
    assert result.exit_code == 0, result.stderr
    assert traced == [5, 5]
    table = read_provenance(work / "folder" / "000006.png")
    assert (table["backend"], table["chunk"], table["dtype"]) == ("cpu sdpa compiled", [5, 1], "float32")
    torch._dynamo.reset()  # else the second model would take over what was traced for the first
    again = command("sample", "--like", "folder/000006.png", "--device", "cpu", "--out", "again.png")
    assert "the same as folder/000006.png, pixel for pixel" in again.stderr
    assert traced == [5, 5, 5, 5]
    assert read_provenance(work / "again.png") == table


@pytest.mark.slow
def test_a_image_compiled_on_another_kind_of_device_is_made_again_without(command, run_here, work, monkeypatch):
    from spherectl import provenance

    described = provenance.describe

    def elsewhere(*arguments, **named):
        return described(*arguments, **named) | {"backend": "cuda sdpa compiled", "chunk": (5, 1)}

    monkeypatch.setattr(provenance, "describe", elsewhere)
    options = ("--dtype", "float32", "--device", "cpu")
    assert command("sample", *options, "--count", 1, "--out", "one.png").exit_code == 0
    monkeypatch.setattr(torch, "compile", lambda *_a, **_k: pytest.fail("compiled"))
    again = command("sample", "--like", "one.png", "--device", "cpu", "--out", "again.png")
    assert again.exit_code == 0, again.stderr
    table = read_provenance(work / "again.png")
    assert table["backend"] == "cpu sdpa"
    assert "chunk" not in table


@pytest.mark.fast
def test_on_a_cpu_in_bfloat16_there_is_nothing_to_compile(command, run_here, fails):
    result = command("sample", "--compile", "--dtype", "bfloat16", "--device", "cpu")
    fails(result, 2, "for bfloat16 and int8 there are the CPU kernels, already compiled", "--dtype float32")


@pytest.mark.slow
def test_without_a_c_compiler_a_sentence_says_so(cli, tiny_run, tmp_path, fails):
    environment = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "empty")}
    arguments = ("--model", tiny_run, "--count", 1, "--dtype", "float32", "--device", "cpu", "--out", "one.png")
    done = cli("sample", "--compile", *arguments, env=environment)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: torch.compile cannot compile this model here: ")
    assert "/nowhere/c++" in errors[0]
    assert "without --compile nothing is compiled" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "one.png").exists()


@pytest.mark.slow
def test_without_it_the_compiler_is_not_even_loaded(tiny_run):
    """It takes longer to load than torch."""
    code = """
import sys
from spherectl import api
list(api.generate(api.load(sys.argv[1], device="cpu"), 2))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tiny_run)], check=True)
