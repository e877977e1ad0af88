"""The table [sample]: how a model likes to be sampled."""

from __future__ import annotations

from spherectl.sampling import Sampling
from spherectl.tables import Spec


class SampleSpec(Spec, Sampling):
    """How a model is sampled: steps, guidance, noise (`spherectl.sampling` says what each may be).

    >>> import spherectl
    >>> spherectl.SampleSpec(steps=2).guidance
    1.0
    """
