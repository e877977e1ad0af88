"""Files that hold a model: our own one-file format, and the layouts of published checkpoints."""
