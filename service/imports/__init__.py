"""Conversations that were had elsewhere, brought in as messages and episodes."""
