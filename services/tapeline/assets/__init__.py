"""The assets service: tapes, canvases, and the assets that are built from tapes.

Reading order: `tape/aggregate.py`, `asset/aggregate.py`, `asset/spec.py`, `view.py`, `components.py`,
`build.py`, `asset/handlers.py`, `app.py`.
"""
