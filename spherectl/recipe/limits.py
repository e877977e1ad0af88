"""How large the numbers of a recipe may be, and the types that say so."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

# Limits that nobody's own recipe meets. They keep what a recipe promises within what a machine can be asked for, and
# the networks of any recipe are put up without memory in a second.
MAX_IMAGE_SIZE = 2_048  # px; the largest with a patch of its own has 512
MAX_TOKENS = 16_384  # of an image, 16 times the paper's; attention goes with their square
MAX_CHANNELS = 4_096  # of a token, 32 times the paper's
MAX_CLASSES = 100_000  # ImageNet with all its classes has 21,843
MAX_IN_CONTEXT = 1_024  # tokens of the class, 32 times the paper's
MAX_MIXERS = 64  # blocks at an end of a network, 16 times the paper's
MAX_COUNT = 10**12 - 1  # images; checkpoints have their number in a name of twelve digits
MAX_EPOCHS = 1_000_000
MAX_BATCH = 1_000_000  # images of one step; the paper's have 256 to 2,048
MAX_WORKERS = 256  # processes that read images
MAX_KNOTS = 1_000  # entries of loss.schedule
MAX_RATE = 1_000.0  # learning rates, weight decay and ratios of rates; trainings diverge long before
MAX_WEIGHT = 1e6  # of a part of the loss; the largest in recipes/ is 50
MAX_TEXT = 10_000  # characters of a summary or a path
MAX_RECIPE = 1 << 20  # bytes of a file; those in recipes/ have 2 to 6 kB
MAX_NAME = 200  # characters of a name, which files and folders get

Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Images = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Batch = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Epochs = Annotated[float, Field(ge=0, le=MAX_EPOCHS)]
Mixers = Annotated[int, Field(ge=0, le=MAX_MIXERS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]
AboveZero = Annotated[float, Field(gt=0, le=MAX_RATE)]
Weight = Annotated[float, Field(ge=0, le=MAX_WEIGHT)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
