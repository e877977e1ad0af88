"""The table [sample]: how a model likes to be sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import create_model

from spherectl.sampling import Sampling, hints
from spherectl.tables import Spec

if TYPE_CHECKING:

    class SampleSpec(Spec, Sampling):
        """As below, for type checkers."""

else:
    SampleSpec = create_model(
        "SampleSpec",
        __base__=Spec,
        __module__=__name__,
        **{name: (hint, getattr(Sampling, name)) for name, hint in hints(Sampling).items()},
    )
    SampleSpec.__doc__ = """How a model is sampled: steps, guidance, noise (`spherectl.sampling` says what each may be).

    >>> import spherectl
    >>> spherectl.SampleSpec(steps=2).guidance
    1.0
    """
