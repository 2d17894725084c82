"""Tapes: imported, checked, immutable trades. `aggregate`, `handlers`, `projection`, `tables`, `queries`."""
