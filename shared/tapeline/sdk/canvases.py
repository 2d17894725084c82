"""Canvases: pictures of networks, as JSON documents."""

from __future__ import annotations

import builtins
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import NotFoundError, TapelineError, ValidationError
from tapeline.sdk import artifacts
from tapeline.sdk.arguments import given, paged, picture_path
from tapeline.sdk.client import client_of
from tapeline.sdk.errors import LitModelError, lit_error_handler

if TYPE_CHECKING:
    from tapeline.canvas import Canvas as Document
    from tapeline.canvas import CanvasDiff, Validation
    from tapeline.sdk.runs import Run


class Canvas:
    """A model canvas: the no-code picture of a network, by the name of a stored one or a path to its JSON.

    Examples
    --------
    >>> canvas = Canvas("contoso", "demo")
    >>> canvas.name, canvas.revision
    ('demo', 1)
    """

    team: str
    name: str
    path: Path

    @lit_error_handler(LitModelError)
    def __init__(self, team: str, name: str | None = None, path: str | Path | None = None) -> None:
        if (name is None) == (path is None):
            raise ValueError("a canvas is opened by its name or by a path, one of the two")
        self.team = team
        self._revision: int | None = None
        self._stored: dict[str, Any] | None = None
        self._removed = False
        if path is not None:
            self.path = Path(path)
            self.name = self.path.stem
            self._read()
        else:
            self.name = str(name)
            self._take(client_of(team).query("assets", "get_canvas", name=self.name))

    def __repr__(self) -> str:
        return f"Canvas(team={self.team!r}, name={self.name!r})"

    @property
    def revision(self) -> int | None:
        """The stored revision that was opened or saved; None for one that is only a file."""
        return self._revision

    @property
    @lit_error_handler(LitModelError)
    def document(self) -> dict[str, Any]:
        """The working copy: the JSON at `path`, which may be edited by hand."""
        return self._read()

    @property
    @lit_error_handler(LitModelError)
    def inputs(self) -> builtins.list[builtins.list[str]]:
        """The names of the features of each input.

        Examples
        --------
        >>> canvas = Canvas("contoso", "demo")
        >>> canvas.inputs
        [['90_1daybar_lp%'],
        ['RSI14TA_day'],
        ['vwap2060_day'],
        ['20sma_day'],
        ['ATR14_day']]
        """
        return self._parsed().inputs

    @property
    @lit_error_handler(LitModelError)
    def outputs(self) -> builtins.list[dict[str, Any]]:
        """The outputs, in canvas order.

        Examples
        --------
        >>> canvas = Canvas("contoso", "demo")
        >>> canvas.outputs
        [{'component_name': '',
          'label_index': 4,
          'gaussian_noise': 0.5,
          'dropout': 0.5,
          'class_weighting': 1,
          'activation': 'auto',
          'feature': 'long_updown'}]
        """
        return self._parsed().outputs

    @lit_error_handler(LitModelError)
    def duplicate(self, *, command_id: str | None = None) -> Canvas:
        """A copy of the stored canvas under a new name."""
        self._there()
        view = client_of(self.team).command("assets", "duplicate_canvas", name=self.name, command_id=command_id).view
        return _opened(self.team, view)

    @lit_error_handler(LitModelError)
    def get_available_components(self) -> builtins.list[dict[str, Any]]:
        """What a canvas can be made of: `{type, title, category, inputs, params, doc}` each.

        Examples
        --------
        >>> canvas = Canvas('contoso', 'demo')
        >>> available_components = canvas.get_available_components()
        >>> "dense" in [each["type"] for each in available_components]
        True
        """
        self._there()
        return builtins.list(client_of(self.team).query("assets", "components")["components"])

    @lit_error_handler(LitModelError)
    def remove(self, *, command_id: str | None = None) -> None:
        """Remove the stored canvas for good; runs keep the copy that they pinned. A second time is no change."""
        if self._removed:
            return
        client_of(self.team).command("assets", "remove_canvas", name=self.name, command_id=command_id)
        self._removed = True

    @lit_error_handler(LitModelError)
    def save(self, expected_revision: int | None = None, *, command_id: str | None = None) -> int:
        """Store the working copy: a new canvas, or its next revision; the revision.

        Equal content makes no revision. With `expected_revision` another save in between is refused.
        """
        self._there()
        view = client_of(self.team).command(
            "assets", "save_canvas", name=self.name, content=self._read(), command_id=command_id,
            **given(expected_revision=expected_revision),
        ).view  # fmt: skip
        if self._revision is None:
            self._revision, self._stored = int(view["revision"]), dict(view["content"])
        else:
            self._take(view)
        return int(view["revision"])

    @lit_error_handler(LitModelError)
    def rename(self, new_name: str, *, command_id: str | None = None) -> None:
        """Give the stored canvas another name; runs and vault items keep the copy that they pinned."""
        self._there()
        view = client_of(self.team).command(
            "assets", "rename_canvas", name=self.name, new_name=new_name, command_id=command_id
        ).view  # fmt: skip
        self.name = str(view["name"])

    @lit_error_handler(LitModelError)
    def revisions(self) -> builtins.list[dict[str, Any]]:
        """Every stored revision as `{revision, digest, saved_at, user}`, the first one first.

        Examples
        --------
        >>> [each["revision"] for each in Canvas("contoso", "demo").revisions()]
        [1]
        """
        self._there()
        client = client_of(self.team)

        def page(size: int, start: int) -> dict[str, Any]:
            return dict(client.query("assets", "list_revisions", name=self.name, limit=size, offset=start))

        return [
            {
                "revision": int(view["revision"]), "digest": view["digest"], "user": view["user"],
                "saved_at": datetime.fromisoformat(view["updated_at"]),
            }
            for view in paged(page, 2**31, 0)
        ]  # fmt: skip

    @lit_error_handler(LitModelError)
    def version(self, n: int) -> Canvas:
        """The canvas as of one of its revisions, with a working copy of its own."""
        self._there()
        view = client_of(self.team).query("assets", "get_canvas", name=self.name, revision=n)
        return _opened(self.team, view, is_pinned=True)

    @lit_error_handler(LitModelError)
    def diff(self, a: int | Canvas | None = None, b: int | Canvas | None = None) -> CanvasDiff:
        """What changed from one canvas to another, by node id.

        Parameters
        ----------
        a : int or Canvas, optional
            Before: a revision of this canvas, or another canvas. Default: the stored revision that was opened.
        b : int or Canvas, optional
            After. Default: the working copy.

        Examples
        --------
        >>> canvas = Canvas("contoso", "demo")
        >>> canvas.diff().is_empty
        True
        """
        from tapeline.canvas import diff, validate

        before = self._revision if a is None else a
        found = [
            (self if each is None else self.version(each) if isinstance(each, int) else each) for each in (before, b)
        ]
        # What is compared is read, not built: a revision that was saved as a draft is told by its own errors.
        old, new = (validate(each._read()).require() for each in found)
        return diff(old, new)

    @lit_error_handler(LitModelError)
    def render(self, path: str | Path | None = None, *, asset: str | None = None) -> str:
        """A drawing of the working copy as SVG; equal canvases give equal drawings.

        Parameters
        ----------
        path : str or Path, optional
            Also written there, as SVG or PNG by its suffix.
        asset : str, optional
            Its features give the shapes that are written into the boxes.
        """
        from tapeline.canvas.drawing import lay_out, svg

        target = None if path is None else picture_path(path, ".svg", ".png")
        found = self._validation(asset)
        layout = lay_out(found.require(), shapes=found.shapes, title=self.name)
        drawn = svg(layout)
        if target is not None and target.suffix.lower() == ".png":
            from tapeline.canvas.drawing.png import png

            target.write_bytes(png(layout))
        elif target is not None:
            target.write_text(drawn, encoding="utf-8")
        return drawn

    def _repr_html_(self) -> str:
        from tapeline.sdk.displays import canvas_html

        return canvas_html(self)

    @lit_error_handler(LitModelError)
    def validate(self, asset: str | None = None) -> dict[str, Any]:
        """What is wrong with the working copy, against an asset too when one is named.

        Returns
        -------
        dict
            `ok`, `errors`, `warnings`, `shapes`, `parameters`, `digest`.
        """
        self._there()
        return dict(client_of(self.team).query("assets", "validate_canvas", content=self._read(), **given(asset=asset)))

    @lit_error_handler(LitModelError)
    def train(
        self,
        device: str,
        session_name: str | None = None,
        temp_canvas: bool = False,
        *,
        asset: str | None = None,
        config: dict[str, Any] | None = None,
        project_id: str | None = None,
        command_id: str | None = None,
    ) -> str:
        """Start a new experiment; the name of its session.

        Parameters
        ----------
        device : str
            Where it trains: `gpu4`, `cpu0`, `any`.
        session_name : str, optional
            Default: the canvas's name and the run's number.
        temp_canvas : bool
            Let the document live in the run only; else a changed working copy is saved first.
        asset : str, optional
            Instead of the one that the canvas names in `training.asset`.
        """
        return str(
            self._train(device, session_name, temp_canvas, asset, config, project_id, command_id)["session_name"]
        )

    @lit_error_handler(LitModelError)
    def train_run(
        self,
        device: str = "any",
        *,
        asset: str | None = None,
        config: dict[str, Any] | None = None,
        session_name: str | None = None,
        temp_canvas: bool = False,
        project_id: str | None = None,
        command_id: str | None = None,
    ) -> Run:
        """Start training; the `Run`."""
        from tapeline.sdk import runs

        view = self._train(device, session_name, temp_canvas, asset, config, project_id, command_id)
        return runs.find(str(view["run_id"]), self.team)

    def _train(
        self,
        device: str,
        session_name: str | None,
        temp_canvas: bool,
        asset: str | None,
        config: dict[str, Any] | None,
        project_id: str | None,
        command_id: str | None,
    ) -> dict[str, Any]:
        self._there()
        document = self._read()
        if not temp_canvas and document != self._stored:
            self.save()
        of = {"document": document} if temp_canvas else {"canvas": self.name}
        reply = client_of(self.team).command(
            "runs", "train", device=device, command_id=command_id, **of,
            **given(session_name=session_name, asset=asset, config=config, project_id=project_id),
        )  # fmt: skip
        return dict(reply.view)

    @lit_error_handler(LitModelError)
    def transpile(self, asset: str | None = None) -> Any:
        """The compiled Keras model of the working copy, for the asset that it names.

        Examples
        --------
        >>> canvas = Canvas('contoso', 'demo')
        >>> model = canvas.transpile()
        >>> model
        <Functional name=canvas, built=True>
        """
        from tapeline.canvas.transpile import FeatureStats, transpile

        self._there()
        document = self._read()
        named = asset or document.get("training", {}).get("asset")
        if not named:
            raise ValidationError.of(
                "no_asset", f"canvas {self.name!r} names no asset", hint="set training.asset, or give asset="
            )
        view = client_of(self.team).query("assets", "get", name=named)
        stats = {
            name: FeatureStats(mean=each["mean"], variance=each["variance"])
            for name, each in (view.get("stats") or {}).get("features", {}).items()
        }
        return transpile(document, **_dimensions(view), stats=stats)

    def _parsed(self) -> Document:
        return self._validation().require()

    def _validation(self, asset: str | None = None) -> Validation:
        from tapeline.canvas import validate

        known = _dimensions(client_of(self.team).query("assets", "get", name=asset)) if asset is not None else {}
        return validate(self._read(), **known)

    def _there(self) -> None:
        if self._removed:
            raise NotFoundError.of("not_found", f"canvas {self.name!r} was removed", hint="tapeline canvas ls")

    def _read(self) -> dict[str, Any]:
        from tapeline.canvas.limits import MAX_BYTES
        from tapeline.canvas.parse import parsed

        self._there()
        try:
            with self.path.open("rb") as file:
                # One byte more tells that there is more, and no file is read that could not be one.
                return parsed(file.read(MAX_BYTES + 1))
        except FileNotFoundError as error:
            if self._stored is None:
                raise NotFoundError.of(
                    "not_found", f"there is no file {self.path}", hint="name a canvas's JSON file, or a stored canvas"
                ) from error
            return dict(self._stored)
        except TapelineError as error:
            is_large = error.code == "canvas_too_large" and self.path.stat().st_size > MAX_BYTES
            what = f"more than {MAX_BYTES:,} bytes" if is_large else error.message
            hint = "tapeline canvas schema" if error.code == "canvas_invalid" else error.hint
            raise ValidationError.of(str(error.code), f"{self.path}: {what}", hint=hint) from error

    def _take(self, view: dict[str, Any], *, is_pinned: bool = False) -> None:
        self.name = str(view["name"])
        self._revision = int(view["revision"])
        self._stored = dict(view["content"])
        folder = artifacts.cache(client_of(self.team), "canvases", self.name)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The id is in the name: a canvas that was removed and made anew is another one.
        self.path = folder / f"{view['id']}.{self._revision}{'.pinned' if is_pinned else ''}.json"
        if is_pinned or not self.path.exists():
            beside = self.path.with_suffix(".part")
            beside.write_text(json.dumps(self._stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            beside.replace(self.path)


def _dimensions(asset: dict[str, Any]) -> dict[str, Any]:
    """The shapes of the features of an asset, and the columns of its labels."""
    from tapeline.canvas import LabelColumns

    return {
        "feature_shapes": {name: tuple(shape) for name, shape in asset["features"].items()},
        "labels": {name: LabelColumns.of(*types) for name, types in asset["labels"].items()},
    }


def _opened(team: str, view: dict[str, Any], *, is_pinned: bool = False) -> Canvas:
    canvas = Canvas.__new__(Canvas)
    canvas.team = team
    canvas._removed = False
    canvas._take(view, is_pinned=is_pinned)
    return canvas


@lit_error_handler(LitModelError)
def get_canvases(team: str) -> builtins.list[Canvas]:
    """The canvases of a team, by name."""
    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("assets", "list_canvases", limit=size, offset=start))

    return [_opened(team, view) for view in paged(page, 2**31, 0)]


def example_canvas(name: str = "demo") -> Path:
    """The JSON file of a canvas that ships with the package.

    Raises
    ------
    NotFoundError
        There is no such example.
    """
    import tapeline.canvas.examples as shipped

    if name not in shipped.EXAMPLES:
        raise NotFoundError.of(
            "not_found", f"no example canvas is named {name!r}", hint=f"examples are: {', '.join(shipped.EXAMPLES)}"
        )
    return Path(str(shipped.__file__)).with_name(f"{name}.json")
