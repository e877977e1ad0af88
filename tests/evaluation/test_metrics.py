"""Metrics: a record is all that a new one takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spherectl.evaluation.embeddings import Features
from spherectl.evaluation.fidelity import score, unavailable
from spherectl.evaluation.metrics import METRICS, NEEDS, Metric, Score
from spherectl.evaluation.protocol import Plan
from spherectl.evaluation.reference import Reference
from tests.evaluation.test_report import make_report

pytestmark = pytest.mark.fast


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric by one record: the largest feature."""
    metric = Metric(
        "largest",
        "The largest feature",
        "largest of the features of the samples",
        scores=(Score("largest", "largest", "{:.1f}", "higher"),),
        needs=("logits",),
        min_count=3,
        compute=lambda given: {"largest": float(given.samples.embedding.max())},
        resample=lambda given, m, _: {"largest": m.double().amax(1)},
    )
    monkeypatch.setitem(METRICS, "largest", metric)
    return metric


def test_a_metric_added_by_one_record_is_planned_scored_reported_and_refused(dummy: Metric) -> None:
    from spherectl.cli.app import app
    from spherectl.evaluation.report import as_json
    from spherectl.evaluation.report_tables import score_rows

    assert "largest" in Plan().wanted
    assert Plan(metrics=["largest", "fid"]).wanted == ("fid", "largest")
    reference = Reference("real", np.zeros(2), np.eye(2), None, "net", 32, 9)
    samples = Features(torch.tensor([[0.0, 7.5]]), None)
    net: Any = SimpleNamespace(name="net", logits="logits", class_names=())
    found = score(samples, reference, net, metrics=["largest"])
    assert found.largest == 7.5
    report = make_report()
    report.rows[0].scores.values["largest"] = 7.5
    report.rows[0].intervals["largest"] = (7.0, 8.0)
    assert score_rows(report)[0]["largest"] == "7.5 (7.0 to 8.0)"
    assert as_json(report, "c")["rows"][0]["scores"]["largest"] == 7.5
    assert unavailable(["largest"], reference, net, 2) == {
        "largest": "The largest feature: expected at least 3 images on each side, got 2."
    }
    net.logits = None
    assert unavailable(["largest"], reference, net, 9) == {
        "largest": "The largest feature needs a classifier, and net is none."
    }
    told = CliRunner().invoke(app, ["evaluate", "--metrics", "larget"])
    assert told.exit_code == 2
    assert "memorisation, largest" in " ".join(told.stderr.split())


def test_every_record_is_whole_and_in_the_docs() -> None:
    docs = Path("docs/evaluation.md").read_text(encoding="utf-8")
    keys = [score.key for metric in METRICS.values() for score in metric.scores]
    assert len(keys) == len(set(keys))
    for metric in METRICS.values():
        better = {score.better for score in metric.scores if score.label}
        assert f"| `{metric.name}` | {metric.what} | {', '.join(better)} | {metric.source} |" in docs, metric.name
        assert set(metric.needs) <= NEEDS.keys()
        assert (metric.compute or metric.compare) is not None or not metric.scores
