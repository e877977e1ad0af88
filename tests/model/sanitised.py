"""`python sanitised.py SOURCES FOLDER`: the tests of the kernels on their source in plain C, under sanitizers.

`plain_vectors/immintrin.h` stands for the processor's vectors, so that this runs on any processor: not the
instructions are tested, but which memory the kernels read and write, and what they compute. To be started with
libasan loaded (`LD_PRELOAD`); FOLDER gets the library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spherectl.model import kernels

HERE = Path(__file__).parent
FLAGS = [
    *("-std=gnu11", "-O0", "-fopenmp", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"),
    *(
        "-Wno-psabi",
        "-Wno-unknown-pragmas",
        "-Wno-unused-variable",
        "-Wno-unused-but-set-variable",
        "-Wno-maybe-uninitialized",
    ),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
]


def main() -> int:
    """Compile, put the library in place of the processor's own, run the tests that call kernels."""
    sources, target = Path(sys.argv[1]), Path(sys.argv[2]) / "kernels.so"
    files = sorted(sources.glob("*.c"))
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # the compiler is not looked at
    command = ["gcc", *FLAGS, "-I", HERE / "plain_vectors", *files, "-o", target, "-lm"]
    subprocess.run(command, check=True, env=plain)
    library = kernels._load(target)
    kernels._library = lambda: library
    kernels.explain = lambda: "in plain C"  # else their speed would be measured
    others = "reason or setting or compiled or signature"
    return pytest.main(
        ["-q", "-x", "-s", "-p", "no:cacheprovider", "-k", f"not ({others})", str(HERE / "test_kernels.py")]
    )


if __name__ == "__main__":
    sys.exit(main())
