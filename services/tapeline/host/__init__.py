"""Runs, assets and vault in one process, as the embedded instance has them."""
