"""What it costs to begin, beside the import of torch alone."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

STARTS, FEWEST = 15, 3
SAMPLE = ("-m", "spherectl", "sample", "--model", "fashion-mnist", "--count", "1", "--steps", "1", "--out", "x.png")


@pytest.mark.soak
def test_a_first_image_takes_at_most_twice_the_import_of_torch(cli):
    """The quickest of several starts each, taken in turns: what else the machine does slows both, so more are taken."""

    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], env=cli.environment(), cwd=cli.folder, capture_output=True, check=True
        )
        return time.perf_counter() - began

    seconds(*SAMPLE)  # the first on a machine may compile the kernels
    sampled, imported = [], []
    for start in range(STARTS):
        sampled.append(seconds(*SAMPLE))
        imported.append(seconds("-c", "import torch"))
        if start + 1 >= FEWEST and min(sampled) <= 2 * min(imported):
            break
    assert min(sampled) <= 2 * min(imported), (sampled, imported)
