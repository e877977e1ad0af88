"""`python -m spherectl`, and so `torchrun -m spherectl`."""

from __future__ import annotations

from spherectl.cli.app import main

main()
