"""The kernels' C under AddressSanitizer and UBSan, against torch: no byte beyond a tensor, no undefined arithmetic."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spherectl.model import kernels

HERE = Path(__file__).parent


def libasan() -> str | None:
    """GCC's runtime, where it is installed."""
    if platform.system() != "Linux" or (gcc := shutil.which("gcc")) is None:
        return None
    found = subprocess.run([gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if Path(found.stdout.strip()).is_file() else None


# The second one's vectors are always whole, so that rows whose width is no multiple of 16 are overrun.
@pytest.mark.slow
@pytest.mark.skipif(libasan() is None, reason="gcc with its sanitizers is not here")
@pytest.mark.parametrize("lanes", [None, "return left > 0 ? 0xFFFF : 0;"], ids=["as they are", "overrunning"])
def test_kernels_stay_within_their_tensors(lanes: str | None, tmp_path: Path) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(kernels.SOURCES[0].parent, sources)
    if lanes is not None:
        values = sources / "values.h"
        own = "return left >= LANES ? 0xFFFF : (__mmask16)((1u << left) - 1);"
        assert own in values.read_text()
        values.write_text(values.read_text().replace(own, lanes))
    ended = subprocess.run(
        [sys.executable, HERE / "sanitised.py", sources, tmp_path],
        env={
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "LD_PRELOAD": libasan(),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "OMP_NUM_THREADS": "2",
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    if lanes is None:
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    else:
        assert ended.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in ended.stderr
