"""The same inputs of every kind in each run; `python tests/hostile` and `make soak` try others."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.hostile.harness import Attempt, Harness
from tests.hostile.search import KINDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the worker's memory is read as Linux tells it")

OF_A_KIND = 10
ALWAYS_THE_SAME = settings(
    max_examples=OF_A_KIND,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


SLOW = {"statistics", "feature network", "run folder"}  # evaluations, trainings and plots
MARKED = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else pytest.mark.fast) for kind in KINDS]


@pytest.mark.parametrize("kind", MARKED)
def test_no_promise_is_broken(kind: str, harness: Harness) -> None:
    @ALWAYS_THE_SAME
    @given(KINDS[kind])
    def check(attempt: Attempt) -> None:
        assert harness.run(attempt) == [], attempt

    check()
