"""What is timed: the arithmetic of its rows, and that each way runs what its name says."""

from __future__ import annotations

import pytest
import torch

from benchmarks import cases, subjects
from benchmarks.cases import ONEDNN, case_rows, machine_groups, peak_rows, peaks_by_precision
from benchmarks.growth import growth
from benchmarks.subjects import BASELINE, INT8, KERNELS, PLAIN, Subject, spec_of
from benchmarks.timing import Case, Group

pytestmark = pytest.mark.fast


def timed(path: str, *seconds: float, gflop: float = 30.0) -> Case:
    return Case(path, lambda: 0.0, gflop, 12.345, list(seconds))


@pytest.fixture(scope="module")
def nano() -> Subject:
    """The smallest networks, random weights, in every way of this machine."""
    package = subjects.random_package("nano", spec_of("nano"))
    return Subject("nano", "nano", package, subjects.ways(package, "nano"), ((1, (1, 2)), (4, (2,))))


def test_ratios_and_shares_are_of_medians() -> None:
    group = Group("m", "1 step", 8, [timed(BASELINE, 1.0, 3.0, 2.0), timed(PLAIN, 1.0), timed(KERNELS, 0.4, 0.5, 0.6)])
    rows = case_rows(group, {"float32": 20.0, "bfloat16": 75.0})
    assert [row["ratio"] for row in rows] == [1, 2, 4]
    assert [row["ratio_to_plain_bfloat16"] for row in rows] == [0.5, 1, 2]
    assert [row["percent_of_peak"] for row in rows] == [75, 40, 80]  # 15 of 20, 30 and 60 of 75 GFLOP/s
    first = rows[0]
    assert (first["ms"], first["lowest_ms"], first["highest_ms"], first["images_per_s"]) == (2000, 1000, 3000, 4)
    few = case_rows(Group("m", "1 step", 8, [timed(BASELINE, 1.0), timed(INT8, 0.5)]), {"float32": 20.0})
    assert [row["ratio_to_plain_bfloat16"] for row in few] == [None, None]
    assert [row["percent_of_peak"] for row in few] == [150, None]


def test_peaks_are_rates_and_the_share_is_of_torchs_own_float32() -> None:
    groups = [
        Group("machine", cases.PRODUCT, 0, [timed(BASELINE, 0.1, 0.3, 0.2), timed(ONEDNN, 0.1), timed("int8", 0.05)]),
        Group("machine", cases.COPY, 0, [timed(BASELINE, 0.1)]),
    ]
    assert peaks_by_precision(groups) == {"float32": 150, "int8": 600}
    first, *_, last = peak_rows(groups)
    assert (first["median"], first["lowest"], first["highest"], first["unit"]) == (150, 100, 300, "GFLOP/s")
    assert (last["unit"], last["median"]) == ("GB/s", 5.37)  # 2 x 2^28 bytes in a tenth of a second


def test_float32_through_onednn_is_float32_and_leaves_no_setting_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MATRIX", 128)
    monkeypatch.setattr(cases, "COPIED_BYTES", 1 << 12)
    before = torch.get_float32_matmul_precision()
    products, _ = machine_groups()
    assert torch.get_float32_matmul_precision() == before
    assert {case.path for case in products.cases} >= {"float32", "int8"}
    a, b = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    if any(case.path == ONEDNN for case in products.cases):
        assert torch.allclose(cases._onednn(a, b), a @ b, rtol=1e-5)
    for case in products.cases:
        case.measure()
        assert case.gflop == 2 * 128**3 / 1e9
        assert case.seconds[0] > 0


def test_the_baseline_and_plain_bfloat16_never_take_the_kernels(nano: Subject) -> None:
    with torch.no_grad():
        for path, model in nano.models.items():
            taken = {trunk.path(torch.device("cpu")) for trunk in (model.network.encoder, model.network.decoder)}
            assert (taken == {"torch"}) == (path in (BASELINE, PLAIN)), path
            assert model.precision == path.partition(",")[0]
    assert nano.baseline.network.encoder.blocks[0].attn.qkv.weight.dtype == torch.float32


def test_ways_draw_the_same_images_and_a_seed_gives_the_same_weights(nano: Subject) -> None:
    again = subjects.random_package("nano", spec_of("nano")).weights
    assert all(torch.equal(again[name], tensor) for name, tensor in nano.package.weights.items())
    exact = subjects.draw(nano.baseline, 3, 4)
    assert exact.std() > 0.01
    for path, model in nano.models.items():
        assert torch.allclose(subjects.draw(model, 3, 4), exact, atol=0.2), path


def test_products_of_a_draw_are_those_of_its_passes(nano: Subject) -> None:
    """Four guided steps are four passes of D and three of E, each twice."""
    groups = {group.what: group for group in cases.pass_groups(nano)}
    encode = groups["encode"].cases[0].gflop / cases.TOGETHER
    decode = groups["reconstruct"].cases[0].gflop / cases.TOGETHER - encode
    assert nano.gflop(1) == pytest.approx(decode)
    assert nano.gflop(4) == pytest.approx(8 * decode + 6 * encode)


def test_every_way_is_a_case_of_every_draw(nano: Subject) -> None:
    groups = list(cases.draw_groups(nano))
    assert [(group.what, group.images) for group in groups] == [("1 step", 1), ("1 step", 2), ("4 guided steps", 2)]
    for group in groups:
        assert [case.path for case in group.cases] == list(nano.models)
        group.visit()
        assert all(case.seconds[0] > 0 for case in group.cases)
    assert groups[1].cases[0].gflop == pytest.approx(2 * nano.gflop(1))


def test_growth_has_a_row_for_each_step_of_the_way(nano: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.growth.BATCHES", (1, 3))
    monkeypatch.setattr("benchmarks.growth.STEPS", (1, 2))
    monkeypatch.setattr("benchmarks.growth.STEPS_BATCH", 2)
    rows = growth(nano, sides=(), sizes=("nano",))
    assert [(row["over"], row["images"]) for row in rows] == [
        ("size", 1),
        *(("batch", count) for count in (1, 3)),
        *(("steps", 2) for _ in range(2)),
    ]
    assert [row["gflop"] for row in rows[:4]] == [pytest.approx(n * nano.gflop(1), rel=0.01) for n in (1, 1, 3, 2)]
    assert rows[0]["parameters"] == nano.parameters
