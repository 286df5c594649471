"""A model server that fails on purpose, each way by its name."""
