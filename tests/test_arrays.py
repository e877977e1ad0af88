"""Arrays of strangers: what is read is as it was written, and nothing larger or other than expected is."""

from __future__ import annotations

import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spherectl.arrays import Expected, read_npz
from spherectl.errors import FileError

pytestmark = pytest.mark.fast

EXPECTED = {"mu": Expected("f", (64,)), "sigma": Expected("f", (64, 64)), "about": Expected("U", ())}


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    body = text.encode("latin-1") + b"\n"
    length = len(body).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + body


def described(descr: str, shape: str, order: str = "False") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")


def archive(path: Path, content: bytes, name: str = "mu.npy", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as written:
        written.writestr(name, content)
    return path


@pytest.mark.parametrize(("save", "dtype"), [(np.savez_compressed, np.float16), (np.savez, ">f8")])
def test_arrays_come_back_as_numpy_wrote_them(save, dtype, tmp_path):
    mu = np.arange(64).astype(dtype)
    sigma = np.asfortranarray(np.arange(64 * 63).reshape(64, 63).astype(dtype))
    save(tmp_path / "a.npz", mu=mu, sigma=sigma, about=np.array("words"), other=np.zeros(10**6))
    found = read_npz(tmp_path / "a.npz", EXPECTED)
    assert sorted(found) == ["about", "mu", "sigma"]
    np.testing.assert_array_equal(found["mu"], mu)
    np.testing.assert_array_equal(found["sigma"], sigma)
    assert str(found["about"]) == "words"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (described("'<f8'", "(65,)"), r"mu has the shape \(65,\), at most \(64,\) is read"),
        (described("'<f8'", "(4294967296, 4294967296)"), "mu has the shape"),
        (described("'<f8'", "(-1,)"), "the shape"),
        (described("'<f8'", "(8,)") + bytes(1 << 20), "not as many bytes"),
        (described("'|O'", "(8,)") + bytes(64), r"an array of object"),
        (described("'<U9999999'", "(8,)"), "an array of <U9999999"),
        (described("[('a', '<f8')]", "(8,)") + bytes(64), "an array of"),
        (header("(" * 9000), ""),
        (header("{}", (3, 0)), r"a header of version \(3, 0\)"),
        (b"\x93NUMPY\x01\x00\xff\xff", ""),
    ],
)
def test_what_is_not_such_an_array_is_a_sentence_before_it_is_read(content, said, tmp_path):
    path = archive(tmp_path / "a.npz", content)
    tracemalloc.start()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(FileError, match=f"is not a whole .npz file.*{said}") as caught:
            read_npz(path, EXPECTED, "Fetch it again.")
    assert not warned
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    assert len(caught.value.message) < 300 + len(str(path))
