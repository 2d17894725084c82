"""Trainer agents and their devices, as they announce them."""
