"""A limit on what Python allocates, for files that claim to be huge."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def bounded(mib: int) -> Iterator[None]:
    """Assert that the body allocates less than `mib` MiB at any moment."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mib << 20
    finally:
        tracemalloc.stop()
