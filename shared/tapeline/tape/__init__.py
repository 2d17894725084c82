"""Tapes: imported, checked, immutable trades, as a library.

Parsing runs where the user is: `imports.import_tape` and `simulate.simulate` leave a `PreparedTape` in a
folder; the SDK uploads its files; the assets service checks each with `day_file.verify_day_file` and the
manifest with `manifest.parse`. Reading: `view.OpenTape` gives trades and bar grids of a manifest.

Reading order: `trades.py`, `sessions.py`, `day_file.py`, `manifest.py`, `prepared.py`, `view.py`,
`simulate.py`, then `imports.py` and `sources/`.
"""
