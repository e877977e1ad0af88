"""Figures of latents: what is on them, asked of the figure or the page itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl.evaluation.posterior import COLUMNS, Column, Hole
from spherectl.evaluation.projection import Cloud, project
from spherectl.evaluation.uniformity import uniformity_by_class
from spherectl.plots import posterior, uniformity

pytest.importorskip("matplotlib")

pytestmark = pytest.mark.fast

NAMES = ("shoe", "</script><b>bag")


@pytest.fixture(scope="module")
def panels() -> list[Cloud]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 2
    found = []
    for title, pull in (("latents of a", 1.0), ("truly uniform points", 0.0)):
        points = torch.randn(30, 12, generator=generator) + pull
        measured = uniformity_by_class(points, labels, NAMES, draws=19)
        found.append(Cloud(title, project(points, 0), labels, measured))
    found.insert(2, Cloud("means of a VAE: none given", None, labels, None))
    return found


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they are about to be written."""
    kept: list[Any] = []
    for module in (posterior, uniformity):
        monkeypatch.setattr(module, "save", lambda figure, _path: kept.append(figure))
    return kept


def test_a_row_for_each_panel_a_column_for_all_and_for_each_class(panels: list[Cloud], plotted: list[Any]) -> None:
    uniformity.plot_uniformity(panels, NAMES, Path("a.png"))
    axes = [plotted[0].axes[4 * row : 4 * row + 4] for row in range(3)]
    assert [one.get_title() for one in axes[0]] == ["", "all", *NAMES]
    for row, cloud in zip(axes, panels, strict=True):
        assert row[0].texts[0].get_text().startswith(cloud.title)
        points = [sum(len(dots.get_offsets()) for dots in one.collections) for one in row[1:]]
        assert points == ([30, 15, 15] if cloud.projected is not None else [0, 0, 0])
    assert "rank" in axes[0][0].texts[0].get_text()


def test_the_page_needs_nothing_else_and_holds_the_points(panels: list[Cloud], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    measured = panels[0].measured
    assert measured is not None
    uniformity.write_page(panels, NAMES, path, about="1 < 2 images", training=[(1000, measured)])
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//[\w.]+\.\w|<link|\bimport\b|fetch\(", text)
    assert text.count("</script>") == 2
    assert "%" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).split('id="data">')[0]
    assert "1 &lt; 2 images" in text
    embedded = re.search(r'id="data">(.*?)</script>', text)
    assert embedded
    data = json.loads(embedded[1])
    assert data["classes"] == list(NAMES)
    assert [cloud["title"] for cloud in data["clouds"]] == [cloud.title for cloud in panels]
    assert data["clouds"][2]["points"] == []
    first = panels[0].projected
    assert first is not None
    found = torch.tensor(data["clouds"][0]["points"]).reshape(-1, 3) / 1000
    torch.testing.assert_close(found, first, atol=6e-4, rtol=0)
    assert "<td>1,000</td>" in text
    assert f"{measured.overall.mean_direction.value:.3g} (uniform 1," in text


def test_each_model_has_four_columns_under_its_name(plotted: list[Any]) -> None:
    def column(name: Any, place: int) -> Column:
        return Column(name, torch.full((5, 3, 4, 4), 10 * place, dtype=torch.uint8), 1.25 * place, None)

    holes = [Hole(name, tuple(column(one, place) for place, one in enumerate(COLUMNS))) for name in ("a", "b")]
    posterior.plot_posterior_hole(holes, Path("a.png"), rows=3, distance="FID")
    (figure,) = plotted
    assert [part.get_suptitle() for part in figure.subfigs] == ["a", "b"]
    titles = [axes.get_title().strip() for axes in figure.axes]
    assert titles == 2 * [
        "input\nFID 0", "reconstruction\nFID 1.25", "prior sample\nFID 2.5", "fitted-posterior\nsample\nFID 3.75",
    ]  # fmt: skip
    assert figure.axes[1].images[0].get_array().shape == (3 * 6 - 2, 4, 3)
