"""The JSON Schema of a canvas; `docs/schemas/canvas-1.json` holds `schema_text()`."""

from __future__ import annotations

import json
from typing import Any

from tapeline.canvas.limits import SCHEMA
from tapeline.canvas.model import Canvas


def canvas_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `tapeline.canvas/1`."""
    schema = Canvas.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}", **schema}


def schema_text() -> str:
    """The schema as the text of the published file."""
    return json.dumps(canvas_schema(), indent=2, sort_keys=True) + "\n"
