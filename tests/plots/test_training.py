"""Curves of trainings: what is read, what is plotted (asked of the figure itself), what is written."""

from __future__ import annotations

import json
import math
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherectl.errors import FileError, UsageError
from spherectl.plots import training as plots
from spherectl.plots.curves import find_run, read_curves, read_metrics
from spherectl.plots.training import moving_mean, plot_training, thinned

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

pytestmark = pytest.mark.fast

LOSSES = ("loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat")


def lines(count: int, *, batch: int = 8, perceptual: float = 1.0, gauges: bool = True) -> list[dict[str, float]]:
    """Metrics of a made-up training, as the loop writes them."""
    found = []
    for step in range(1, count + 1):
        line: dict[str, float] = {"step": step, "images_seen": step * batch}
        line |= {name: (1 + place) / step for place, name in enumerate(LOSSES)}
        line["loss_rec_perc"] *= perceptual
        line["loss_con_perc"] *= perceptual
        line |= {"lr": 1e-3 / step, "grad_norm": 100.0 / step, "images_per_s": 50.0 + step % 2, "wall_s": 1.5 * step}
        if gauges:
            line |= {"loss_centre": 0.5 - step / 10}  # which may be below nothing
            line |= {"loss_kl": 1 / step, "latent_norm": math.sqrt(step), "mfu": 0.4, "memory_mb": 100.0}
            line |= {"effective_rank": step / 10} if step % 10 == 0 else {}
        found.append(line)
    return found


def few(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    """The same with two panels' worth of keys, which are plotted quickly."""
    return [{key: line[key] for key in ("step", "images_seen", "wall_s", "loss", "lr")} for line in metrics]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """`run("a", lines)`: a run folder with these metrics; `end` follows the last line's break."""

    def make(name: str, metrics: list[dict[str, float]], end: str = "") -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics) + end)
        return folder

    return make


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """`plotted([folders], x="hours")`: the figure as it is about to be written; it has warned of nothing."""
    kept: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, _path: kept.append(figure))

    def plot(folders: list[Path], **named: Any) -> Figure:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plot_training(read_curves(folders), Path("a.png"), **named)
        return kept.pop()

    return plot


def panel(figure: Figure, title: str) -> Any:
    (found,) = (axes for axes in figure.axes if axes.get_title().startswith(title))
    return found


# What is read


def test_columns_are_the_values_of_the_lines(run: Callable[..., Path]) -> None:
    metrics = lines(25)
    columns = read_metrics(run("a", metrics))
    for key in metrics[9]:
        assert columns[key].dtype == np.float64
        np.testing.assert_array_equal(columns[key], [line.get(key, math.nan) for line in metrics])
    assert list(np.flatnonzero(np.isfinite(columns["effective_rank"])) + 1) == [10, 20]


@pytest.mark.parametrize("end", ['{"step": 4, "lo', '{"step": 4, "images_seen": 32, "loss": 0.1}', "\x00\x00"])
def test_a_last_line_without_its_end_does_not_count(run: Callable[..., Path], end: str) -> None:
    assert list(read_metrics(run("a", lines(3), end))["step"]) == [1, 2, 3]


def test_keys_that_come_later_or_are_null_are_no_numbers_before(run: Callable[..., Path]) -> None:
    folder = run("a", [{"step": 1}, {"step": 2, "new": 5}, {"step": 3, "new": None}, {"step": 4}])
    np.testing.assert_array_equal(read_metrics(folder)["new"], [math.nan, 5, math.nan, math.nan])


@pytest.mark.parametrize("wrong", ["no json", '{"loss": 1}', '{"step": 2, "loss": "small"}', "[" * 50_000])
def test_a_damaged_line_is_a_sentence(run: Callable[..., Path], wrong: str) -> None:
    with pytest.raises(FileError, match=r"metrics\.jsonl: line 3 is no line of metrics"):
        read_metrics(run("a", lines(2), f"{wrong}\n" + json.dumps(lines(1)[0]) + "\n"))


def test_a_run_is_a_path_or_a_name(run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = run("a", lines(1)), run("b", lines(1))
    assert find_run(str(folder), Path("nowhere")) == folder
    assert find_run("b", tmp_path / "runs") == other
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    assert find_run("b", tmp_path / "runs") == Path("b")  # as everywhere, what is here goes first
    with pytest.raises(UsageError, match="There is none in nowhere either"):
        find_run("c", Path("nowhere"))


# Means and points


@pytest.mark.parametrize("window", [1, 4, 7, 50])
def test_the_mean_is_over_what_the_window_holds(window: int) -> None:
    values = np.array([5.0, -1, 2, 100, 3, 3, 8, 0.5, 1e-3, 7])
    before, after = (window - 1) // 2, window // 2
    expected = [values[max(0, i - before) : i + after + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(moving_mean(values, window), expected, rtol=1e-9)


def test_of_many_points_the_ends_and_every_peak_are_kept() -> None:
    values = np.sin(np.arange(100_000) / 50)
    values[[777, 40_404, 99_998]] = 9, -9, 7
    kept = thinned(values, 1000)
    assert len(kept) <= 1002
    assert np.all(np.diff(kept) > 0)
    assert {0, 777, 40_404, 99_998, 99_999} <= set(kept.tolist())
    for stretch in range(0, 100_000, 1000):  # of several waves, so that each has both extremes
        inside = values[kept[(kept >= stretch) & (kept < stretch + 1000)]]
        assert inside.max() > 0.95
        assert inside.min() < -0.95


# What is plotted


def test_there_is_a_panel_for_what_any_run_has(run: Callable[..., Path], plotted: Callable[..., Figure]) -> None:
    plain = run("plain", lines(30, perceptual=0, gauges=False))
    titles = [axes.get_title() for axes in plotted([plain]).axes]
    assert titles == [
        *("loss, the sum of its parts", "reconstruction, pixels", "consistency, pixels", "consistency, latents"),
        *("gradient norm, before clipping", "learning rate", "images a second"),
    ]
    everything = plotted([plain, run("whole", lines(20))])
    assert [axes.get_title() for axes in everything.axes] == [panel.title for panel in plots.PANELS]


def test_raw_numbers_are_faint_and_means_are_strong(run: Callable[..., Path], plotted: Callable[..., Figure]) -> None:
    metrics = lines(40)
    raw, strong = panel(plotted([run("a", metrics)], smooth=5), "loss,").get_lines()
    losses = np.array([line["loss"] for line in metrics])
    for line, values in ((raw, losses), (strong, moving_mean(losses, 5))):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(8, 321, 8))
        np.testing.assert_allclose(line.get_ydata(), values)
    assert raw.get_color() == strong.get_color()
    assert raw.get_alpha() < 0.5
    assert strong.get_alpha() is None
    assert strong.get_linewidth() > raw.get_linewidth()


def test_by_itself_the_mean_is_over_a_fiftieth_of_the_longest_run(
    run: Callable[..., Path], plotted: Callable[..., Figure]
) -> None:
    figure = plotted([run("short", lines(20)), run("long", few(lines(600)))])
    losses = np.array([line["loss"] for line in lines(20)])
    np.testing.assert_allclose(panel(figure, "loss,").get_lines()[1].get_ydata(), moving_mean(losses, 12))


@pytest.mark.parametrize(
    ("x", "last", "label"), [("images", 240, "images seen"), ("hours", 45 / 3600, "hours of"), ("steps", 30, "steps")]
)
def test_panels_run_along_what_was_asked_for(
    run: Callable[..., Path], plotted: Callable[..., Figure], x: plots.Axis, last: float, label: str
) -> None:
    figure = plotted([run("a", few(lines(30)))], x=x)
    assert panel(figure, "loss,").get_lines()[-1].get_xdata()[-1] == pytest.approx(last)
    assert figure.get_supxlabel().startswith(label)


def test_losses_and_gradients_are_logarithmic_and_the_rest_starts_at_nothing(
    run: Callable[..., Path], plotted: Callable[..., Figure]
) -> None:
    figure = plotted([run("a", lines(50))])
    for one, axes in zip(plots.PANELS, figure.axes, strict=True):
        is_log = (one.key.startswith("loss") and one.key != "loss_centre") or one.key == "grad_norm"
        assert axes.get_yscale() == ("log" if is_log else "linear"), one.key
        bottom = axes.get_ylim()[0]
        assert bottom < -4.5 if one.key == "loss_centre" else is_log or bottom == 0, one.key
        assert axes.get_xlim()[0] == 0


def test_a_start_at_nearly_nothing_does_not_press_the_rest_to_the_top(
    run: Callable[..., Path], plotted: Callable[..., Figure]
) -> None:
    metrics = lines(100)
    for line in metrics[:20]:
        line["loss_con"] = 1e-17
    metrics[0]["loss_lat"] = 0.0  # which no logarithm has
    figure = plotted([run("a", metrics)])
    low = panel(figure, "consistency, pixels").get_ylim()[0]
    assert low == pytest.approx(0.01 * metrics[-1]["loss_con"])
    assert panel(figure, "consistency, latents").get_ylim()[0] < metrics[-1]["loss_lat"]
    falling = panel(figure, "gradient").get_ylim()
    assert falling[0] < 1
    assert falling[1] > 100


def test_runs_are_told_apart_by_colour_then_by_dashes(run: Callable[..., Path], plotted: Callable[..., Figure]) -> None:
    names = [f"run {number}" for number in range(9)]
    names[1] = "_hidden $x^2$"
    figure = plotted([run(name, few(lines(5))) for name in names], smooth=3)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    handles = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    assert len(set(handles)) == 9
    assert handles[7] == (plots.COLOURS[0], "--")
    strong = panel(figure, "loss,").get_lines()[1::2]
    assert [(line.get_color(), line.get_linestyle()) for line in strong] == handles


# What is written


@pytest.mark.parametrize("suffix", [".PNG", ".svg", ".pdf"])
def test_the_suffix_says_what_is_written_and_the_bytes_do_not_depend_on_the_time(
    run: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    runs = read_curves([run("a & b", few(lines(30)))])
    first, second = (tmp_path / name / f"figure{suffix}" for name in ("one", "two"))
    plot_training(runs, first)
    plot_training(runs, second)
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    if suffix.lower() == ".png":
        with Image.open(first) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    elif suffix == ".svg":
        assert ET.parse(first).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert first.read_bytes().startswith(b"%PDF")


def test_a_figure_that_fails_leaves_the_old_one(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "figures" / "a.png"
    target.parent.mkdir()
    target.write_bytes(b"old")

    def full(_figure: Figure, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(FileError, match=r"Cannot write .*: No space left on device"):
        plot_training(read_curves([run("a", lines(3))]), target)
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_a_run_that_an_earlier_version_began_is_one_curve(tmp_path: Path) -> None:
    """Its lines have `peak_share` for what is `mfu` in those that are added to them."""
    names = ["peak_share", "peak_share", "mfu"]
    text = [json.dumps({"step": step, "images_seen": 8 * step, name: step / 10}) for step, name in enumerate(names, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(text) + "\n")
    columns = read_metrics(tmp_path)
    assert columns["mfu"].tolist() == [0.1, 0.2, 0.3]
    assert "peak_share" not in columns
