"""The command line: one thin file a command. Only these files know typer and rich."""
