"""Figures from results, drawn with matplotlib, an optional extra, without a display."""
