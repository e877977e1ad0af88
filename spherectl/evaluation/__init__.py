"""Evaluation: numbers about what a model draws and how it reconstructs."""
