"""The zoo: models and feature networks that travel with the package or can be fetched, and finding a model by any name.

Nothing here imports torch: listing and finding must stay quick.
"""

from spherectl.zoo.catalogue import index, read_card, read_index
from spherectl.zoo.entries import Entry, Score
from spherectl.zoo.finding import (
    MODEL_FILE,
    Found,
    fetch,
    find_entry,
    find_model,
    find_recipe,
    needs_fetching,
    newest_run,
    verify,
)

__all__ = [
    "MODEL_FILE",
    "Entry",
    "Found",
    "Score",
    "fetch",
    "find_entry",
    "find_model",
    "find_recipe",
    "index",
    "needs_fetching",
    "newest_run",
    "read_card",
    "read_index",
    "verify",
]
