"""Canvases out of Keras models: read where the file lies, without Keras."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import TapelineError, ValidationError
from tapeline.sdk.canvases import Canvas
from tapeline.sdk.client import client_of
from tapeline.sdk.errors import LitModelError, lit_error_handler

if TYPE_CHECKING:
    from tapeline.canvas.keras_config import Imported

_COLUMN = re.compile(r"(.+)\[([0-9]{1,5})\]")


@lit_error_handler(LitModelError)
def import_canvas(
    team: str,
    path: str | Path,
    name: str | None = None,
    *,
    features: Mapping[str, Sequence[str]] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Canvas:
    """Store the canvas of a Keras functional model; its weights are left out.

    Parameters
    ----------
    path : str or Path
        A `.keras` file, or the `.json` of `model.to_json()`.
    name : str, optional
        Default: the file's stem.
    features : Mapping of str to sequence of str, optional
        The features of an input, by the input's name in the model. Default: one, with that name.
    labels : Mapping of str to sequence of str, optional
        The label of an output, as one text: `label`, or `label[column]`. Default: the output's own name.

    Raises
    ------
    LitModelError
        A layer has no place in a canvas: the cause is `unsupported` and names it.
    """
    made = read_keras(Path(path), features=features, labels=labels)
    chosen = name or Path(path).stem
    store(team, chosen, made.document | {"name": chosen})
    return Canvas(team, chosen)


def read_keras(
    path: Path,
    *,
    features: Mapping[str, Sequence[str]] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Imported:
    """The canvas of a model file, which may be hostile; nothing is stored.

    Raises
    ------
    TapelineError
        `not_found`, `model_refused`, `unsupported` with the layer, or `invalid`.
    """
    from tapeline.canvas.keras_config import canvas_of
    from tapeline.security import models

    config = models.config(path)
    inputs, outputs = models.ends(config)
    for what, given, known in (("input", features, inputs), ("output", labels, outputs)):
        for each in given or ():
            if each not in known:
                raise TapelineError(
                    f"the model has no {what} {each!r}", code="invalid", hint=f"{what}s are: {', '.join(known)}"
                )
    return canvas_of(
        config,
        features=[list((features or {}).get(each, [each])) for each in inputs],
        labels=[_label(each, (labels or {}).get(each, [each])) for each in outputs],
    )


def _label(output: str, given: Sequence[str]) -> tuple[str, int]:
    if isinstance(given, str) or len(given) != 1:
        raise ValidationError.of("invalid", f"output {output!r} learns one column of one label", hint="give [label]")
    found = _COLUMN.fullmatch(given[0])
    return (found[1], int(found[2])) if found else (given[0], 0)


def store(team: str, name: str, document: Mapping[str, Any]) -> int:
    """Save a document under a name; its revision."""
    view = client_of(team).command("assets", "save_canvas", name=name, content=dict(document)).view
    return int(view["revision"])


def text_of(document: Mapping[str, Any]) -> str:
    """The document as the text of a file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
