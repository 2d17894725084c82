"""Canvases: JSON pictures of networks by revision. `aggregate`, `handlers`, `projection`, `tables`, `queries`."""
