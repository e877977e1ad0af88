"""`python -m experiments COMMAND ...`: spherectl's command line, with the kinds of networks of this folder."""

from __future__ import annotations

from spherectl.cli.app import app

if __name__ == "__main__":
    app()
