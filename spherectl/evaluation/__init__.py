"""Measure models: `evaluate` of a `Plan`; names are looked up on first use, so that help and listings stay quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spherectl.evaluation.protocol import Plan, Report
    from spherectl.evaluation.report import write
    from spherectl.evaluation.run import evaluate

__all__ = ["Plan", "Report", "evaluate", "write"]


def __getattr__(name: str) -> Any:
    """One of the names above."""
    import importlib

    homes = {"Plan": "protocol", "Report": "protocol", "write": "report", "evaluate": "run"}
    if name not in homes:
        raise AttributeError(f"module 'spherectl.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spherectl.evaluation.{homes[name]}"), name)
