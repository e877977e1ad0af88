"""`make bench` on a tiny model: what it writes, what in it must be exact, and that the page says what the JSON says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import speed, subjects
from benchmarks.page import page
from benchmarks.subjects import BASELINE, INT8, KERNELS, PLAIN, spec_of
from benchmarks.timing import MIN_VISITS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, make_cli: Any, tiny_run: Path, fashion_excerpt: Path
) -> tuple[dict[str, Any], str, str]:
    """The JSON, the page without what was kept, and what was said on stderr."""
    folder = tmp_path_factory.mktemp("speed")
    docs = folder / "docs"
    docs.mkdir()
    earlier = {"format": 2, "training_equality": EQUALITY, "cases": "of yesterday"}
    (docs / "performance.json").write_text(json.dumps(earlier), encoding="utf-8")
    options = ["--models", tiny_run, "--recipe", "debug", "--seconds", 1, "--images", 20, "--no-growth", "--out", docs]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *map(str, options)],
        cwd=ROOT,
        env=make_cli(folder).environment({"SPHERECTL_DATA": str(fashion_excerpt), "OMP_NUM_THREADS": "1"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == docs / "performance.md"
    text = (docs / "performance.json").read_text(encoding="utf-8")
    return json.loads(text), (docs / "performance.md").read_text(encoding="utf-8"), done.stderr


EQUALITY = {
    "date": "2031-02-04",
    "command": "python -m benchmarks.training_equality",
    "recipe": "fashion-mnist",
    "steps": 500,
    "last": 100,
    "length": 32000,
    "difference_percent": 0.123,
    "rows": [{"path": "float32", "mean_loss": 0.9}],
}


def test_every_case_is_measured(written: tuple[dict[str, Any], str, str]) -> None:
    results, _, told = written
    draws = [("draws", what, images) for what in ("1 step", "4 guided steps") for images in (1, 8, 64)]
    passes = [("passes", what, 64) for what in ("encode", "reconstruct")]
    steps = [("training", what, 8) for what in ("training step", "training step, no perceptual part")]
    cases = results["cases"]
    assert {tuple(case[key] for key in ("kind", "what", "images")) for case in cases} == {*draws, *passes, *steps}
    paths = {kind: [c["path"] for c in cases if c["kind"] == kind] for kind in ("draws", "passes", "training")}
    assert len(paths["draws"]) == len(draws) * len(set(paths["draws"]))
    assert all(BASELINE in each for each in paths.values())
    for case in cases:
        assert 0 < case["lowest_ms"] <= case["ms"] <= case["highest_ms"]
        assert case["images_per_s"] == pytest.approx(1000 * case["images"] / case["ms"], rel=0.02)
        assert case["percent_of_peak"] > 0
        if case["path"] == BASELINE:
            assert case["ratio"] == 1
    assert results["visits"] >= MIN_VISITS * (len(draws) + len(passes) + len(steps))
    assert told.count("for a visit") == len(draws) + len(passes) + len(steps) + 2
    (model,) = results["models"]
    assert (model["name"], model["parameters"]) == ("tiny", 153_275)
    assert {"processor", "flags", "cores", "threads"} <= results["machine"].keys()
    assert "torch" in results["versions"]


def test_ratios_are_those_of_the_medians(written: tuple[dict[str, Any], str, str]) -> None:
    ms = {tuple(case[key] for key in ("what", "images", "path")): case["ms"] for case in written[0]["cases"]}
    for case in written[0]["cases"]:
        here = case["what"], case["images"]
        assert case["ratio"] == pytest.approx(ms[*here, BASELINE] / case["ms"], rel=0.02)
        if (*here, PLAIN) in ms:
            assert case["ratio_to_plain_bfloat16"] == pytest.approx(ms[*here, PLAIN] / case["ms"], rel=0.02)


def test_products_grow_with_the_images_and_not_with_the_path(written: tuple[dict[str, Any], str, str]) -> None:
    gflop = {tuple(case[key] for key in ("what", "path", "images")): case["gflop"] for case in written[0]["cases"]}
    for (what, path, images), value in gflop.items():
        assert value == gflop[what, BASELINE, images], (what, path)
        if what in ("1 step", "4 guided steps"):
            assert value == pytest.approx(images * gflop[what, path, 1], rel=0.02)


def test_images_are_compared_and_scored(written: tuple[dict[str, Any], str, str]) -> None:
    quality = written[0]["quality"]
    assert (quality["model"], quality["images"], quality["scorer"]) == ("tiny", 20, "fashion-scorer")
    for row in quality["rows"]:
        assert row["path"] not in (BASELINE, PLAIN)
        assert row["low_psnr_db"] <= row["median_psnr_db"]
        assert row["frechet"] == pytest.approx(row["frechet_float32"] * (1 + row["change_percent"] / 100), rel=0.02)
        assert row["interval_percent"] > 0
    for row in written[0]["invariance"]:
        if row["path"] != PLAIN:
            assert row["bytes_that_differ"] == 0, row["path"]


def test_the_page_is_of_the_json_and_an_earlier_comparison_of_losses_stays(
    written: tuple[dict[str, Any], str, str],
) -> None:
    results, text, _ = written
    assert text == page(results)
    assert results["training_equality"] == EQUALITY
    assert "The same losses" in text
    assert "growth" not in results


def test_a_training_step_of_ours_is_beside_plain_ones(written: tuple[dict[str, Any], str, str]) -> None:
    paths = [case["path"] for case in written[0]["cases"] if case["what"] == "training step"]
    assert paths[0] == BASELINE
    if written[0]["kernels"].startswith("works"):
        assert paths[-1] == KERNELS


@pytest.mark.parametrize("options", [["--models", "a", "b"], ["--models", "nowhere"]])
def test_a_mistake_is_a_sentence(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", *options, "--out", str(tmp_path / "docs")])
    with pytest.raises(SystemExit, match=r"^error: .*\."):
        speed.main()
    assert not (tmp_path / "docs").exists()


def test_the_models_of_random_weights_have_the_shapes_of_the_paper() -> None:
    specs = {name: random.spec for name, random in subjects.RANDOM.items()}
    assert {name: (spec.patch, spec.tokens, spec.size) for name, spec in specs.items()} == {
        "small": (2, 256, "small"),
        "base": (2, 256, "base"),
        "base-256": (8, 1024, "base"),
    }


def test_the_baseline_is_judged_and_what_is_left_out_is_told() -> None:
    package = subjects.random_package("base", spec_of("nano"))
    models = {BASELINE: subjects.model(package, "base", "float32", plain=True)}
    base = subjects.Subject("base", "base, 32 px", package, models, ((1, (8,)),), left_out=((1, 64),))
    row = {"model": "base", "what": "1 step", "images": 8, "path": BASELINE, "gflop": 2.0, "ms": 10.0}  # 200 GFLOP/s
    for share, holds in ((79.9, False), (80.0, True)):
        judged = speed._model_row(base, [{**row, "percent_of_peak": share}])
        assert (judged["baseline_percent"], judged["baseline_holds"]) == (share, holds)
    first, *others = speed._left_out([base], [row])
    seconds = float(f"{64 * base.gflop(1) / 200:.3g}")
    assert first == f"base, 32 px: 1 step, 64 images: about {seconds:g} s in float32."
    assert [sentence.partition(":")[0] for sentence in others] == [PLAIN, KERNELS, INT8]


def test_an_older_json_is_not_read(tmp_path: Path) -> None:
    for text in ('{"peaks": []}', "[]", "{", '{"format": 1}'):
        (tmp_path / "performance.json").write_text(text, encoding="utf-8")
        assert speed.read(tmp_path) == {}
    assert speed.read(tmp_path / "nowhere") == {}
