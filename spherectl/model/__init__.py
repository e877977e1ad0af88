"""The networks, the sphere, sampling, the objective and the model file: plain torch, no configuration below build()."""
