"""Servers for one machine, from the wheels of the `embedded` extra. Imported by the command line and tests only."""
