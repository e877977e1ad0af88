"""Training: the perceptual part, optimiser and schedule, moving average, checkpoints, the run folder, the loop."""
