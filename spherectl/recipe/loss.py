"""The table [loss]: weights of the parts, and how they change while a training goes on."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated

from pydantic import FailFast, Field, model_validator

from spherectl.recipe.limits import MAX_KNOTS, MAX_NAME, Images, Probability, Weight
from spherectl.shown import quoted
from spherectl.tables import Spec


class LossKnot(Spec):
    """Weights after so many images; one that is not given is that of the loss itself."""

    images: Images
    pooled: Weight | None = None
    rec: Weight | None = None
    rec_perceptual: Weight | None = None
    con: Weight | None = None
    con_perceptual: Weight | None = None
    latent: Weight | None = None
    centre: Weight | None = None
    kl: Weight | None = None


class LossSpec(Spec):
    """Weights of the parts, and the perceptual distance; of a VAE `rec`, `rec_perceptual` and `kl` count."""

    perceptual: Annotated[str, Field(max_length=MAX_NAME)] = (
        "lpips+convnext"  # or "features:NAME" (a frozen network of the zoo), or "none"
    )
    pooled: Weight = 0.0  # ours: weight in features:NAME of features averaged over space
    rec: Weight = 1.0
    rec_perceptual: Weight = 1.0
    con: Weight = 0.5
    con_perceptual: Weight = 0.5
    latent: Weight = 0.1
    centre: Weight = 0.0  # ours: the mean cosine between a micro-batch's latents of one class
    # Ours: other weights earlier on, linear in the images between its entries.
    schedule: Annotated[tuple[LossKnot, ...], Field(strict=False, max_length=MAX_KNOTS), FailFast()] = ()
    kl: Weight = 0.0  # of a VAE: the divergence's mean over the entries of a latent, in nats
    label_dropout: Probability = 0.1

    @model_validator(mode="after")
    def _check(self) -> LossSpec:
        if self.perceptual not in ("lpips+convnext", "none") and not self.features:
            raise ValueError(
                f"loss.perceptual: {quoted(self.perceptual)} is none of "
                "lpips+convnext, features:NAME (a network in the zoo), none"
            )
        if any(later.images <= earlier.images for earlier, later in pairwise(self.schedule)):
            raise ValueError("loss.schedule: each entry needs more images than the one before")
        return self

    # w(n) = (1 - s) w_k + s w_k+1, s = (n - n_k) / (n_k+1 - n_k); the first before n_1, the last after the last
    def after(self, images_seen: int) -> LossSpec:
        """The loss of a step that begins after so many images, without a schedule."""
        if not self.schedule:
            return self
        position = bisect_right([knot.images for knot in self.schedule], images_seen)
        earlier, later = self.schedule[max(position - 1, 0)], self.schedule[min(position, len(self.schedule) - 1)]
        share = (images_seen - earlier.images) / (later.images - earlier.images) if later is not earlier else 0.0
        weights = {}
        for name in LossKnot.model_fields.keys() - {"images"}:
            given = [getattr(knot, name) for knot in (earlier, later)]
            old, new = (getattr(self, name) if weight is None else weight for weight in given)
            weights[name] = new if old == new else share * new + (1 - share) * old
        return self.model_copy(update=weights | {"schedule": ()})

    @property
    def centred(self) -> bool:
        """Whether the part that centres classes ever counts."""
        return bool(self.centre or any(knot.centre for knot in self.schedule))

    @property
    def features(self) -> str:
        """Name of the zoo network the perceptual part uses, or the empty string."""
        prefix, _, name = self.perceptual.partition(":")
        return name if prefix == "features" else ""
