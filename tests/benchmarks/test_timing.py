"""The instrument: against a clock of our own, closed forms of products, memory that is known, orders that are known."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks.timing import (
    MAX_VISITS,
    MIN_VISITS,
    SPARE,
    Case,
    Group,
    counted_gflop,
    peak_memory_mb,
    repeated,
    time_in_turns,
    visits,
)
from spherectl.model.attention import attention

pytestmark = pytest.mark.fast


def test_attention_is_counted() -> None:
    """Against its own definition: q k^T and the weighted sum, 2 N N K each, in B H pairs."""
    q = torch.rand(2, 16, 3, 8)  # (B, N, H, K)
    assert counted_gflop(lambda: attention(q, q, q, "sdpa")) == 2 * (2 * 16 * 16 * 8) * (2 * 3) / 1e9


def test_a_gradient_is_counted_as_two_products() -> None:
    layer, x = torch.nn.Linear(6, 10), torch.rand(5, 6, requires_grad=True)
    assert counted_gflop(lambda: layer(x).sum().backward()) == 3 * 2 * 6 * 10 * 5 / 1e9


def test_short_calls_are_repeated_and_long_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("benchmarks.timing.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def measured(seconds: float) -> tuple[float, int]:
        calls: list[int] = []
        turn = repeated(lambda: (calls.append(1), clock.__setitem__(0, clock[0] + seconds)))
        return turn(), len(calls)

    assert measured(0.5) == (pytest.approx(0.5), 1)
    assert measured(0.008) == (pytest.approx(0.008), 3)


def test_memory_is_what_a_call_needs_at_its_worst() -> None:
    if peak_memory_mb(lambda: None) is None:
        pytest.skip("this system does not tell a process's peak")
    kept: list[torch.Tensor] = []
    assert peak_memory_mb(lambda: [torch.ones(5_000_000) for _ in range(3)]) == pytest.approx(60, abs=5)
    assert peak_memory_mb(lambda: torch.ones(10_000_000).sum()) == pytest.approx(40, abs=5)
    assert peak_memory_mb(lambda: kept.append(torch.ones(20_000_000))) == pytest.approx(80, abs=5)
    assert peak_memory_mb(kept[0].sum) == pytest.approx(0, abs=5)


def test_the_ways_of_a_group_follow_one_another_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def now() -> float:
        return clock[0]

    def second(name: str) -> float:
        order.append(name)
        clock[0] += 1
        return 1.0

    monkeypatch.setattr("benchmarks.timing.time", SimpleNamespace(perf_counter=now, monotonic=now))
    groups = [
        Group(name, "", 0, [Case(way, partial(second, name + way), 0, None) for way in ways])
        for name, ways in (("a", "xyz"), ("b", "xy"))
    ]
    groups[1].visit()
    assert time_in_turns(groups, until=0) == 2 * MIN_VISITS
    assert order[:5] == ["bx", "by", "ax", "ay", "az"]  # what was visited before is not visited first again
    assert "".join(order[5:]).replace("axayaz", "A").replace("bxby", "B") == "ABAB"
    assert [len(case.seconds) for one in groups for case in one.cases] == [MIN_VISITS] * 5
    assert groups[0].cases[0].median_s == 1.0


@pytest.mark.parametrize("budget", [0.0, 50.0, 300.0, 1e6])
def test_visits_share_the_time(budget: float) -> None:
    costs = [0.1, 40.0, 1.0, 8.0]
    order = visits(costs, budget)
    counts = [order.count(i) for i in range(len(costs))]
    least = (MIN_VISITS - 1) * sum(costs)
    assert all(MIN_VISITS - 1 <= count <= MAX_VISITS - 1 for count in counts)
    assert sum(costs[i] for i in order) <= max(budget, least * (1 + SPARE))
    assert counts[0] >= counts[2] >= counts[3] >= counts[1]
    assert counts[0] == MAX_VISITS - 1  # what costs nearly nothing is visited often, however little time there is
    if budget == 1e6:
        assert counts == [MAX_VISITS - 1] * len(costs)
