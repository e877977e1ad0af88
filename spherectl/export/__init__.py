"""A model leaves: as ONNX graphs, torch.export programs, in the published layout, or as a smaller model file."""
