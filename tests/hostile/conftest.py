"""One worker for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile import bases
from tests.hostile.harness import Harness


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    bases.prepare()
    with Harness(tmp_path_factory.mktemp("hostile")) as made:
        yield made
