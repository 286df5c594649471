"""Servers for one machine, from the wheels that the `embedded` extra installs. Imported by the command line and tests only."""
