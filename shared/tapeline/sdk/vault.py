"""The vault: named models, with where they come from and what they take."""

from __future__ import annotations

import builtins
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import AlreadyExistsError, NotFoundError
from tapeline.sdk import artifacts
from tapeline.sdk.arguments import given, paged
from tapeline.sdk.client import client_of
from tapeline.sdk.errors import LitVaultError, lit_error_handler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tapeline.sdk.assets import Asset

IMPORT_S = 180.0
"""The vault reads a model in a process of its own, which loads Keras first."""


class VaultItem:
    """A single item of the vault; making one asks nothing.

    Examples
    --------
    >>> VaultItem("contoso", "spy_e1")
    VaultItem(team='contoso', name='spy_e1')
    """

    team: str
    name: str

    def __init__(self, team: str, name: str) -> None:
        self.team = team
        self.name = name

    def __repr__(self) -> str:
        return f"VaultItem(team={self.team!r}, name={self.name!r})"

    def _repr_html_(self) -> str:
        from tapeline.sdk.displays import vault_item_html

        return vault_item_html(self)

    @property
    @lit_error_handler(LitVaultError)
    def details(self) -> dict[str, Any] | None:
        """What is known of the item, or None when it does not exist.

        Examples
        --------
        >>> item = VaultItem("contoso", "my_model1")
        >>> item.details
        {'host': '...', 'project': 'my_project', 'runid': 1, 'epoch': 1, 'model': 'model.1.keras',
         'name': 'my_model1', 'value': ..., 'notes': None, 'color': None, 'dateAdded': '20...+00:00', 'workers': []}

        An item that does not exist:

        >>> item = VaultItem("contoso", "my_model0")
        >>> print(item.details)
        None
        """
        view = self._view_or_none()
        if view is None:
            return None
        added = datetime.fromisoformat(view["created_at"])
        return {
            "host": view["host"],
            "project": view["project_id"],
            "runid": view.get("run_number"),
            "epoch": view.get("training_epoch"),
            "model": view["model_file"],
            "name": view["name"],
            "value": view.get("value"),
            "notes": view.get("summary") or None,
            "color": None,
            "dateAdded": added.isoformat(" ", "microseconds"),
            "workers": [],
        }

    @property
    @lit_error_handler(LitVaultError)
    def canvas(self) -> dict[str, Any] | None:
        """The canvas of the model, or None when the item does not exist or was imported."""
        view = self._view_or_none()
        return view.get("canvas") if view is not None else None

    @lit_error_handler(LitVaultError)
    def load_model(self) -> Any:
        """The Keras model, checked by its hash and loaded in safe mode.

        Examples
        --------
        >>> vault_item = VaultItem("contoso", "my_model1")
        >>> model = vault_item.load_model()
        >>> model.layers
        [<InputLayer name=input_bars, built=True>,
         ...
         <Concatenate name=dense_trunk_concatenate, built=True>,
         <Dense name=dense_trunk_0, built=True>,
         <GaussianNoise name=end_end_noise, built=True>,
         <Dropout name=end_end_dropout, built=True>,
         <Dense name=end_end, built=True>]
        """
        from tapeline.security import models

        view = self._view()
        return models.load(self._fetched(view), view["model"]["sha256"])

    @lit_error_handler(LitVaultError)
    def model_path(self) -> Path:
        """The local `.keras` file of the model, downloaded on first need."""
        return self._fetched(self._view())

    def _fetched(self, view: dict[str, Any]) -> Path:
        client = client_of(self.team)
        return artifacts.fetch(client, "vault", view["model"], artifacts.cache(client, "vault", view["id"]))

    @lit_error_handler(LitVaultError)
    def get_assets(self) -> builtins.list[Asset]:
        """The assets that the model was trained on."""
        from tapeline.sdk.assets import Asset

        name = self._view().get("asset_name")
        return [Asset(self.team, name)] if name else []

    @lit_error_handler(LitVaultError)
    def get_data_from_path(
        self, path: Path | str, start: int | None = None, stop: int | None = None, step: int = 1
    ) -> tuple[builtins.list[NDArray[Any]], builtins.list[NDArray[Any]]]:
        """What the model takes, and what it is to give, of rows of an asset's file.

        Parameters
        ----------
        path : Path
            A file of an asset.
        start, stop, step : int, optional
            `start` alone: that one sample. No index: all. `stop` is exclusive.

        Returns
        -------
        (x, y) : lists of ndarray
            One array per input and output of the model, first axis = sample.

        Examples
        --------
        A prediction for a random sample of the first file of the first asset that the model was trained on:

        >>> import random
        >>> vault_item = VaultItem("contoso", "my_model1")
        >>> model = vault_item.load_model()
        >>> asset = vault_item.get_assets()[0]
        >>> index = random.randint(0, len(asset.files[0]) - 1)
        >>> x, y = vault_item.get_data_from_path(asset.files[0].path, index)
        >>> model.predict(x)
        array([[0...]], dtype=float32)
        """
        from tapeline.asset_files import AssetFile, model_inputs

        for name, value in (("start", start), ("stop", stop), ("step", step)):
            if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
                raise TypeError(f"{name} must be an int, not {value!r}")
        if step < 1:
            raise ValueError(f"step must be at least 1, not {step}")
        view = self._view()
        picture = view.get("canvas") or {
            "nodes": [{"kind": "input", "features": names} for names in view.get("features", [])]
        }
        with AssetFile(Path(path)) as file:
            rows = len(file)
            if start is not None and not 0 <= start < rows:
                raise IndexError(f"start {start} is outside of {Path(path).name}, which has {rows} samples")
            if stop is not None and not 0 <= stop <= rows:
                raise IndexError(f"stop {stop} is outside of {Path(path).name}, which has {rows} samples")
            first = start or 0
            last = stop if stop is not None else (rows if start is None else first + 1)
            return model_inputs(picture, file, start=first, stop=last, step=step)

    @lit_error_handler(LitVaultError)
    def zeros(self) -> builtins.list[NDArray[Any]]:
        """Zeros of the shapes that the model takes, a batch of one.

        Examples
        --------
        >>> vault_item = VaultItem("contoso", "my_model1")
        >>> model = vault_item.load_model()
        >>> input_data = vault_item.zeros()
        >>> model.predict(input_data)
        array([[0...]], dtype=float32)
        """
        import numpy as np

        return [np.zeros((1, *shape), dtype=np.float32) for shape in self._view()["input_shapes"]]

    def rename(self, new_name: str, *, command_id: str | None = None) -> dict[str, str]:
        """Rename the item; the status and a sentence.

        Examples
        --------
        >>> item = VaultItem("contoso", "my_model1")
        >>> item.rename("my_model2")
        {'status': 'SUCCESS', 'message': 'Vault item my_model1 has been renamed my_model2.'}
        >>> item.name
        'my_model2'
        >>> item.rename("my_model1")
        {'status': 'SUCCESS', 'message': 'Vault item my_model2 has been renamed my_model1.'}

        An item that does not exist:

        >>> item = VaultItem("contoso", "my_model0")
        >>> item.rename("new_name")
        {'status': 'ERROR', 'message': 'item my_model0 not found'}
        >>> item.name
        'my_model0'

        A name that is taken, its own too:

        >>> item = VaultItem("contoso", "my_model1")
        >>> item.rename("my_model1")
        {'status': 'ERROR', 'message': 'name already exists'}
        >>> item.name
        'my_model1'
        """
        return self._rename(new_name, command_id)

    @lit_error_handler(LitVaultError)
    def _rename(self, new_name: str, command_id: str | None) -> dict[str, str]:
        taken = {"status": "ERROR", "message": "name already exists"}
        old = self.name
        try:
            client_of(self.team).command("vault", "rename", name=old, new_name=new_name, command_id=command_id)
        except AlreadyExistsError:
            return taken
        except NotFoundError:
            return {"status": "ERROR", "message": f"item {old} not found"}
        if new_name == old:
            return taken
        self.name = new_name
        return {"status": "SUCCESS", "message": f"Vault item {old} has been renamed {new_name}."}

    @lit_error_handler(LitVaultError)
    def delete(self, *, command_id: str | None = None) -> None:
        """Remove the item."""
        client_of(self.team).command("vault", "remove", name=self.name, command_id=command_id)

    @property
    @lit_error_handler(LitVaultError)
    def view(self) -> dict[str, Any]:
        """Everything that the vault says of the item."""
        return self._view()

    def _view(self) -> dict[str, Any]:
        return dict(client_of(self.team).query("vault", "get", name=self.name))

    def _view_or_none(self) -> dict[str, Any] | None:
        try:
            return self._view()
        except NotFoundError:
            return None


@lit_error_handler(LitVaultError)
def get_vault_items(team: str) -> builtins.list[VaultItem]:
    """The items of a team's vault, by name.

    Examples
    --------
    >>> get_vault_items("contoso")
    [VaultItem(team='contoso', name='my_model1'), ...VaultItem(team='contoso', name='spy_e1')]
    """
    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("vault", "list", limit=size, offset=start))

    return [VaultItem(team, str(view["name"])) for view in paged(page, 2**31, 0)]


@lit_error_handler(LitVaultError)
def add_vault_item(
    team: str,
    name: str,
    *,
    run: str | None = None,
    checkpoint_id: str | None = None,
    version: str = "1.0.0",
    summary: str = "",
    project_id: str | None = None,
    command_id: str | None = None,
) -> VaultItem:
    """Promote a checkpoint, or the best one of a run, under a name."""
    if (run is None) == (checkpoint_id is None):
        raise ValueError("give run or checkpoint_id, one of the two")
    client_of(team).command(
        "vault", "add", name=name, version=version, summary=summary, command_id=command_id,
        **given(run=run, checkpoint_id=checkpoint_id, project_id=project_id),
    )  # fmt: skip
    return VaultItem(team, name)


@lit_error_handler(LitVaultError)
def import_model(
    team: str,
    path: str,
    features: builtins.list[Any] = [],  # noqa: B006
    name: str | None = None,
    *,
    replace: dict[str, dict[str, Any]] | None = None,
    command_id: str | None = None,
) -> VaultItem:
    """Import a Keras model into the vault.

    The file is scanned before a byte of it is sent: no `Lambda`, no class that is not on the list; the vault
    scans what arrives again.

    Parameters
    ----------
    path : str
        A `.keras` file, or one of Keras 2 in HDF5 (`.h5`), which is converted in a process of its own.
    features : list, optional
        The features of each input; their counts must match the inputs.
    name : str, optional
        Default: `new_model`, then `new_model_2`, ...
    replace : dict, optional
        By the name of a layer of a `.h5` file, `{"class": "SelectFields", ...}`: one of our own layers in place of
        a `Lambda`, which is never loaded.

    Examples
    --------
    >>> import_model("contoso", "model.keras")
    VaultItem(team='contoso', name='new_model')
    """
    client = client_of(team)
    with _scanned(Path(path), replace) as source:
        sha256 = artifacts.upload(client, "vault", source)
    groups = [[each] if isinstance(each, str) else [str(one) for one in each] for each in features]
    reply = client.command_within(
        IMPORT_S, "vault", "import_model", sha256=sha256, features=groups, command_id=command_id, **given(name=name)
    )
    return VaultItem(team, str(reply.view["name"]))


@contextmanager
def _scanned(path: Path, replace: dict[str, dict[str, Any]] | None) -> Iterator[Path]:
    """A `.keras` file that has passed the scan: the given one, or what it was converted to."""
    from tapeline.security import models

    if path.suffix.lower() not in (".h5", ".hdf5"):
        if replace:
            raise ValueError("replace is for models in HDF5; save a .keras file without the layer instead")
        models.scan(path)
        yield path
        return
    from tapeline.security.conversion import converted

    with tempfile.TemporaryDirectory(prefix="tapeline-import-") as folder:
        target = Path(folder, f"{path.stem}.keras")
        converted(path, target, replace=replace)
        yield target
