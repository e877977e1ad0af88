"""Frozen feature networks: for the perceptual part of the loss, and for scores (never one network for both)."""
