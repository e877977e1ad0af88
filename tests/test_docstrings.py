"""Every public name has an example in its docstring, and every example is true, offline on the embedded model."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator

import pytest
import torch

import spherectl

# The packages whose `__all__` is for other people's programs, beside the package itself.
FACES = ("spherectl", "spherectl.training", "spherectl.editing", "spherectl.evaluation", "spherectl.export")


def public() -> Iterator[tuple[str, object]]:
    """Public functions and classes, and public methods that a class defines itself or takes from us."""
    for face in FACES:
        module = importlib.import_module(face)
        for name in getattr(module, "__all__", ()):
            one = getattr(module, name)
            if not callable(one) or not getattr(one, "__module__", "").startswith("spherectl"):
                continue
            yield f"{face}.{name}", one
            if inspect.isclass(one) and not issubclass(one, Exception):
                for key, method in inspect.getmembers(one, inspect.isroutine):
                    if key[0] != "_" and str(getattr(method, "__module__", "")).startswith("spherectl"):
                        yield f"{face}.{name}.{key}", method


FOUND = dict(public())
SLOW = ("spherectl.training.train", "spherectl.evaluation.evaluate", "spherectl.evaluation.write")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.fast) for name in FOUND]
)
def test_the_example_of_a_public_name_is_true(name, monkeypatch, tmp_path):
    """A name without an example fails; so does an example whose output is another than the docstring says."""
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = inspect.getdoc(FOUND[name]) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples, f"{name} has no example: add one to its docstring, beginning with >>>"
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert result.failed == 0, "".join(said)


@pytest.mark.fast
def test_the_whole_face_is_looked_at():
    assert {f"spherectl.{name}" for name in spherectl.__all__ if name != "__version__"} <= set(FOUND)
    assert {"spherectl.Model.encode", "spherectl.Model.push_to_hub", "spherectl.Generated.pil"} <= set(FOUND)
