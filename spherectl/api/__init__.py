"""The Python face: load a model, encode, decode, reconstruct, generate, and the training objective for one's own.

Images are floats (B, 3, H, W) in [0, 1]; latents are points on the sphere, (B, N, d); labels are class numbers.
`import spherectl` offers `PUBLIC`; the rest of these names is for the package itself.
"""

from __future__ import annotations

from spherectl.api.files import model_hash
from spherectl.api.generation import Generated, generate, sample_indices, sample_settings, spread_classes
from spherectl.api.inputs import Classes, Images
from spherectl.api.loading import load, load_found
from spherectl.api.model import Model
from spherectl.images import to_pil
from spherectl.model.objective import Losses, LossWeights, TrainingNoise, objective, training_noise
from spherectl.recipe import SampleSpec

__all__ = [
    "Classes",
    "Generated",
    "Images",
    "LossWeights",
    "Losses",
    "Model",
    "SampleSpec",
    "TrainingNoise",
    "generate",
    "load",
    "load_found",
    "model_hash",
    "objective",
    "sample_indices",
    "sample_settings",
    "spread_classes",
    "to_pil",
    "training_noise",
]
