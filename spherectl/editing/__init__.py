"""Editing without training: stitching, rounds, interpolation and restoration, on tensors alone."""
