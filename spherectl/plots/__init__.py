"""Figures from results, plotted with matplotlib, an optional extra, without a display."""
