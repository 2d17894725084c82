"""Assets: the data sets that networks train on, and their files."""

from __future__ import annotations

import builtins
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import NotFoundError, ValidationError
from tapeline.sdk import artifacts
from tapeline.sdk.client import client_of
from tapeline.sdk.errors import LitModelError, lit_error_handler

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

    from tapeline.asset_files import AssetFile as OpenFile
    from tapeline.tape.adapter import BaseAdapter as BaseAdapter

_CHECK_S = 1.0
_UNFINISHED = frozenset({"building"})
PARTS = {"train": 0, "validation": 1, "test": 2}
_TEST = re.compile(r".*_test(_[0-9]+)?\.h5", re.DOTALL)
"""A test part of more than 1 GiB goes on in `<name>_test_1.h5`."""


class AssetFile(os.PathLike[str]):
    """One file of an asset; its bytes are fetched and checked by hash on first use."""

    def __init__(self, asset: Asset, view: dict[str, Any]) -> None:
        self._asset = asset
        self._view = view

    def __repr__(self) -> str:
        return f"Path({str(self._place)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AssetFile) and self._view["sha256"] == other._view["sha256"]

    def __hash__(self) -> int:
        return hash(self._view["sha256"])

    def __len__(self) -> int:
        """How many samples the file has."""
        known = self._asset.view.get("rows", {}).get(self.name)
        return int(known) if known is not None else len(self.opened())

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self._view["name"])

    @property
    def part(self) -> str:
        """`train` or `test`."""
        return "test" if _TEST.fullmatch(self.name) else "train"

    @property
    def _place(self) -> Path:
        return self._asset.path / artifacts.safe_name(self.name)

    @property
    @lit_error_handler(LitModelError)
    def path(self) -> Path:
        """Where the file is, downloaded on first need."""
        return artifacts.fetch(client_of(self._asset.team), "assets", self._view, self._asset.path)

    @lit_error_handler(LitModelError)
    def open(self) -> h5py.File:
        """The HDF5 file, for reading."""
        from tapeline.security.hdf5 import open_own

        return open_own(self.path)

    @lit_error_handler(LitModelError)
    def opened(self) -> OpenFile:
        """The file's columns as memory maps."""
        from tapeline.asset_files import AssetFile as OpenFile

        return OpenFile(self.path)


class Asset:
    """The data prepared and optimised for training a neural network: the result of a build.

    Examples
    --------
    >>> asset = Asset("contoso", "schema_1707673805399")
    >>> len(asset)
    81
    >>> asset.datasets
    ['100_1_min', 'per_min', 'rr_atr_2_2_1800']
    """

    team: str
    name: str

    @lit_error_handler(LitModelError)
    def __init__(self, team: str, name: str) -> None:
        self.team = team
        self.name = name
        self.view: dict[str, Any] = client_of(team).query("assets", "get", name=name)
        self._listed = False

    def __repr__(self) -> str:
        return f"Asset(team={self.team!r}, name={self.name!r})"

    def _repr_html_(self) -> str:
        from tapeline.sdk.displays import asset_html

        return asset_html(self)

    def __len__(self) -> int:
        """Total number of unique samples in test and train."""
        rows = self.view.get("rows") or {}
        names = [file["name"] for file in self.view.get("files", [])]
        if all(name in rows for name in names):
            return sum(int(rows[name]) for name in names)
        return sum(len(file) for file in self.files)

    @property
    def path(self) -> Path:
        """The local folder of the asset; its files are fetched on first need."""
        return artifacts.cache(client_of(self.team), "assets", self.name)

    @property
    def datasets(self) -> builtins.list[str]:
        """Names of the features in the order of the spec, then of the labels."""
        return builtins.list(self.view["datasets"])

    @property
    def files(self) -> builtins.list[AssetFile]:
        """The files: test first, then train in order.

        Examples
        --------
        >>> asset = Asset("contoso", "schema_1707673805399")
        >>> asset.files
        [Path('...schema_1707673805399_test.h5'), Path('...schema_1707673805399_train_0.h5')...]
        """
        return [AssetFile(self, each) for each in self.view["files"]]

    @property
    def status(self) -> str:
        """`building, failed, cancelled, ready, stale` or `removed`, as of when it was last looked at."""
        return str(self.view["status"])

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved spec that the asset was built from."""
        return dict(self.view["spec"])

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The causality certificate; None until the build has checked."""
        found = self._whole().get("certificate")
        return dict(found) if found else None

    @property
    def stats(self) -> dict[str, Any]:
        """Statistics of the train part."""
        return dict(self._whole().get("stats") or {})

    @lit_error_handler(LitModelError)
    def plot(self, path: str | Path | None = None, *, symbol: str | None = None, label: str | None = None) -> str:
        """A picture as SVG: bars with the outcome of each sample's label, parts and embargo drawn.

        Parameters
        ----------
        path : str or Path, optional
            Where to write it too, a file ending in `.svg`.
        symbol, label : str, optional
            Which one; the first without.
        """
        from tapeline.sdk.arguments import picture_path
        from tapeline.sdk.asset_picture import drawn, picture_of

        target = None if path is None else picture_path(path, ".svg")
        text = drawn(picture_of(self, symbol, label))
        if target is not None:
            target.write_text(text, encoding="utf-8")
        return text

    @lit_error_handler(LitModelError)
    def pack(self, folder: str | Path) -> builtins.list[Path]:
        """Cold copies of all files in a folder, for shipping: a fraction of the size, the same content.

        `tapeline.cold.thaw` makes a file that maps into memory of one again.
        """
        from tapeline.cold import pack

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        made = []
        for file in self.files:
            made.append(place / artifacts.safe_name(file.name).replace(".h5", ".cold.h5"))
            pack(file.path, made[-1])
        return made

    def _whole(self) -> dict[str, Any]:
        # A list comes without certificates and statistics.
        if self._listed:
            self.reload()
        return self.view

    @lit_error_handler(LitModelError)
    def reload(self) -> None:
        """Look at the asset again."""
        self.view = client_of(self.team).query("assets", "get", name=self.name)
        self._listed = False

    @lit_error_handler(LitModelError)
    def verify(self) -> bool:
        """Whether every local file has its digest; files that are missing or broken are fetched again."""
        return all(artifacts.digest_of(file.path)[0] == file._view["sha256"] for file in self.files)

    @lit_error_handler(LitModelError)
    def read(self, name: str, part: str = "train", start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows `start:stop` of a feature or label in a part, `train`, `validation` or `test`.

        Only files of that part are fetched, and only these rows are read.

        Returns
        -------
        ndarray
            Shape (rows, ...): a read-only view where one file holds them; rows of several files follow one another.
        """
        import numpy as np

        from tapeline.sdk.arguments import one_of

        wanted = PARTS[one_of("part", part, tuple(PARTS))]
        if name not in self.datasets:
            raise NotFoundError.of(
                "not_found",
                f"asset {self.name!r} has no data set {name!r}",
                hint=f"it has {', '.join(self.datasets) or 'none: it is ' + self.status}",
            )
        held = []
        for file in self.files:
            if (file.part == "test") == (part == "test"):
                columns = file.opened()
                held.append((columns, np.flatnonzero(columns.part == wanted)))
        first, last, _ = slice(start, stop).indices(sum(len(rows) for _, rows in held))
        found, before = [], 0
        for columns, rows in held:
            own = rows[max(first - before, 0) : max(last - before, 0)]
            before += len(rows)
            if len(own):
                lie_together = own[-1] - own[0] + 1 == len(own)
                found.append(columns.column(name)[slice(own[0], own[-1] + 1) if lie_together else own])
        if not found:
            return np.empty((0, *held[0][0].column(name).shape[1:]), np.float32) if held else np.empty(0, np.float32)
        return np.asarray(found[0]) if len(found) == 1 else np.concatenate(found)

    @lit_error_handler(LitModelError)
    def remove(self, *, command_id: str | None = None) -> None:
        """Remove the asset from every view; refused while an unfinished run or a vault item needs it."""
        client_of(self.team).command("assets", "remove", name=self.name, command_id=command_id)

    @lit_error_handler(LitModelError)
    def cancel(self, *, command_id: str | None = None) -> None:
        """End the build of this asset."""
        client_of(self.team).command("assets", "cancel_build", name=self.name, command_id=command_id)

    @staticmethod
    @lit_error_handler(LitModelError)
    def build(
        team: str,
        spec: dict[str, Any],
        wait: bool = True,
        timeout: float | None = None,
        *,
        quiet: bool = True,
        command_id: str | None = None,
    ) -> Asset:
        """Cut an asset from tapes by a `tapeline.asset-spec/1`.

        A spec that has been built already gives its asset, under the name that it has. With `rebuild: true` in the
        spec that asset is built again and compared, as by `rebuild()`.

        Parameters
        ----------
        wait : bool
            Come back when the build has ended.
        timeout : float, optional
            Seconds to wait; the build goes on after a time-out.
        quiet : bool
            Whether no progress is drawn.

        Raises
        ------
        LitModelError
            The spec is refused, or the build failed.
        TimeoutError
            As the cause, when the build has not ended in time.
        """
        if not isinstance(spec, dict):
            raise TypeError(f"spec must be a dict, not {type(spec).__name__}")
        client = client_of(team)
        accepted = client.command("assets", "build", spec=spec, command_id=command_id).view
        asset = Asset(team, str(accepted["name"]))
        if wait:
            asset._wait(timeout, quiet=quiet, again=accepted.get("rebuild") is not None)
        return asset

    @lit_error_handler(LitModelError)
    def rebuild(
        self, wait: bool = True, timeout: float | None = None, *, quiet: bool = True, command_id: str | None = None
    ) -> None:
        """Build the asset again from its recipe and compare; what is there is never replaced.

        Raises
        ------
        LitModelError
            `not_reproducible` when other data came out, `not_rebuildable` when a component of the recipe is no
            longer there.
        """
        client_of(self.team).command("assets", "rebuild", name=self.name, command_id=command_id)
        self.reload()
        if wait:
            self._wait(timeout, quiet=quiet, again=True)

    @lit_error_handler(LitModelError)
    def wait(self, timeout: float | None = None, *, quiet: bool = True) -> None:
        """Wait until the build has ended, drawing its progress unless `quiet`."""
        self._wait(timeout, quiet=quiet, again=False)

    def _wait(self, timeout: float | None, *, quiet: bool, again: bool) -> None:
        from tapeline.sdk.progress import Bars
        from tapeline.sdk.records import Progress

        end = None if timeout is None else time.monotonic() + timeout
        client = client_of(self.team)
        with Bars(f"asset {self.name}", quiet=quiet) as bars, client.hints("asset", self.view["id"]) as hint:
            while True:
                hint.clear()
                self.reload()
                fields = Progress.model_fields
                said = [Progress(**{field: each[field] for field in fields}) for each in self.view.get("progress", [])]
                status = self._now(again)
                is_over = status not in _UNFINISHED
                bars.show(said, "" if is_over else status)
                if is_over:
                    bars.show((), status)
                    break
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(f"asset {self.name} is still building after {timeout} s")
                hint.wait(_CHECK_S)
        ended = self.view["rebuild"] if again else self.view
        if status in ("failed", "cancelled"):
            raise ValidationError.of(
                str(ended.get("code") or "invalid"),
                str(ended.get("message") or f"the build of asset {self.name} was {self.status}"),
                hint=ended.get("hint"),
            )

    def _now(self, again: bool) -> str:
        """The status, or that of the build again."""
        return str((self.view.get("rebuild") or self.view)["status"]) if again else self.status


@lit_error_handler(LitModelError)
def get_assets(team: str) -> builtins.list[Asset]:
    """The assets of a team, by name."""
    from tapeline.sdk.arguments import paged

    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("assets", "list", limit=size, offset=start))

    found = []
    for view in paged(page, 2**31, 0):
        asset = Asset.__new__(Asset)
        asset.team, asset.name, asset.view, asset._listed = team, str(view["name"]), view, True
        found.append(asset)
    return found


def __getattr__(name: str) -> Any:
    # What adapters need (NumPy and the kernels) is imported only when one is asked for.
    if name == "BaseAdapter":
        from tapeline.tape.adapter import BaseAdapter

        return BaseAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
