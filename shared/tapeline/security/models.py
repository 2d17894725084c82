"""The only door for Keras models: scan, load, save.

A `.keras` file is scanned by our own reader before Keras sees it; the scan imports neither Keras nor anything
that the file names. Keras is imported by `load` and `save`, when they are called.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from tapeline.errors import TapelineError
from tapeline.security.hdf5 import weight_shapes
from tapeline.security.model_config import MAX_JSON_BYTES, ModelConfig, parsed_json, refusal, scan_config

MAX_PARAMETERS = 50_000_000
MAX_UNPACKED = 2 << 30
MAX_RATIO = 200
MAX_ENTRIES = 64
MEMBERS = ("metadata.json", "config.json", "model.weights.h5")

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_BLOCK = 1 << 20
_END = b"PK\x05\x06"
_END_SIZE = 22
_ZIP64 = b"PK\x06\x07"


@dataclass(frozen=True)
class ModelScan:
    """What a scanned model file holds."""

    sha256: str
    size: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    parameters: int


def scan(path: str | Path, *, name: str | None = None, max_parameters: int = MAX_PARAMETERS) -> ModelScan:
    """What a `.keras` file holds, when all of it is allowed; Keras is not imported.

    Parameters
    ----------
    path : str or Path
        A regular file.
    name : str, optional
        What the file is called, where its own name is a digest.
    max_parameters : int
        The limit of the team.

    Raises
    ------
    TapelineError
        `not_found`, or `model_refused` with the member or layer and the reason.
    """
    with _opened(path) as file:
        digest, size = _digest(file)
        return _scan(file, name or Path(path).name, digest, size, max_parameters)


def config(path: str | Path) -> dict[str, Any]:
    """The config of a model file, parsed within bounds; Keras is not imported.

    Parameters
    ----------
    path : str or Path
        A `.keras` file, which is scanned first, or a `.json` file as `model.to_json()` writes it.

    Raises
    ------
    TapelineError
        `not_found`, or `model_refused`. The config of a `.json` file is bounded, but not scanned.
    """
    with _opened(path) as file:
        if Path(path).suffix.lower() == ".json":
            return parsed_json(file.read(MAX_JSON_BYTES + 1), "config.json")
        digest, size = _digest(file)
        _scan(file, Path(path).name, digest, size, MAX_PARAMETERS)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            return parsed_json(_Budget(MAX_JSON_BYTES + 1).read(archive, "config.json"), "config.json")


def ends(config: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a config's inputs and outputs, in the order of the model.

    Raises
    ------
    TapelineError
        `model_refused`, as the scan says it.
    """
    found = scan_config(config)
    return found.inputs, found.outputs


def load(
    path: str | Path,
    expected_sha256: str | None = None,
    *,
    name: str | None = None,
    max_parameters: int = MAX_PARAMETERS,
) -> Any:
    """The Keras model in a file, scanned first, loaded with `safe_mode=True` and not compiled.

    Parameters
    ----------
    path : str or Path
        A `.keras` file.
    expected_sha256 : str, optional
        Digest that the file must have, in hex.
    name : str, optional
        What the file is called, where its own name is a digest.
    max_parameters : int
        The limit of the team.

    Returns
    -------
    keras.Model

    Raises
    ------
    TapelineError
        `not_found`; `corrupt` when the digest differs; `model_refused` for what the scan or Keras refuses;
        `dependency_missing` without Keras.

    Notes
    -----
    The scan and Keras read one private copy, so the file cannot change in between.
    """
    name = name or Path(path).name
    with tempfile.TemporaryDirectory(prefix="tapeline-model-") as folder:
        copy = Path(folder, "model.keras")
        with _opened(path) as source, copy.open("xb") as target:
            digest, size = _digest(source, target)
        if expected_sha256 is not None and digest != expected_sha256:
            raise TapelineError(
                f"{name} has SHA-256 {digest[:12]}..., expected {expected_sha256[:12]}...",
                code="corrupt",
                hint="fetch the artifact again",
            )
        with copy.open("rb") as file:
            _scan(file, name, digest, size, max_parameters)
        return _load_scanned(copy, name)


def save(model: Any, path: str | Path) -> str:
    """The SHA-256 of the `.keras` file that is written; equal models give equal bytes.

    Parameters
    ----------
    model : keras.Model
        Functional, made of layers on the list.
    path : str or Path
        Where to; replaced in one step. The suffix is `.keras`.

    Raises
    ------
    TapelineError
        `model_refused` when the file would not pass our own scan; then nothing is written.

    Notes
    -----
    Keras writes the time and the addresses of shared objects into a file. Here the time is fixed and the
    addresses are replaced by numbers in order of appearance. The optimizer's state is part of the file.
    """
    target = Path(path)
    if target.suffix != ".keras":
        raise refusal(f"{target.name}: only .keras files are written", hint="use the suffix .keras")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tapeline-model-", dir=target.parent) as folder:
        raw, finished = Path(folder, "raw.keras"), Path(folder, "model.keras")
        model.save(raw)
        with zipfile.ZipFile(raw) as source, zipfile.ZipFile(finished, "x") as archive:
            for member in MEMBERS:
                content = source.read(member)
                info = zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o600 << 16
                archive.writestr(info, _steady(member, content))
        digest = scan(finished, max_parameters=max(MAX_PARAMETERS, int(model.count_params()))).sha256
        with finished.open("rb") as file:
            os.fsync(file.fileno())
        finished.replace(target)
    return digest


def convert_here(
    source: str | Path,
    target: str | Path,
    *,
    replace: dict[str, Any] | None = None,
    max_parameters: int = MAX_PARAMETERS,
) -> None:
    """Load a model, try it on zeros, and save it as `.keras`; for a process of its own, see `conversion.converted`.

    Raises
    ------
    TapelineError
        `not_found`, `model_refused` or `dependency_missing`.

    Notes
    -----
    A `.keras` file is scanned before Keras is imported. Of one in HDF5 the config is translated and scanned before;
    then it and the weights are packed as a `.keras` file. What is loaded is loaded in safe mode. What is saved is our
    own file: of the one that came, nothing is kept but layers, weights and names.
    """
    with _opened(source) as file:
        is_hdf5 = file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    if is_hdf5:
        model = _of_hdf5(source, replace, max_parameters)
    else:
        model = load(source, name="model.keras", max_parameters=max_parameters)
    import numpy as np

    try:
        model([np.zeros((1, *each.shape[1:]), "float32") for each in model.inputs])
    except Exception as error:  # whatever a backend raises means that the model does not compute
        raise refusal(f"it does not compute on zeros ({type(error).__name__})") from error
    save(model, target)


def _of_hdf5(source: str | Path, replace: dict[str, Any] | None, max_parameters: int) -> Any:
    from tapeline.security import legacy
    from tapeline.security.hdf5 import image, legacy_model

    text, weights = legacy_model(source)
    shapes = {layer: [tuple(array.shape) for array in arrays] for layer, arrays in weights.items()}
    translated = legacy.translated(text, shapes, replace=replace)
    found = legacy.scanned(translated, shapes)
    if found.parameters > max_parameters:
        raise refusal(f"model has {found.parameters:,} parameters; the limit is {max_parameters:,}")

    def fill(file: Any) -> None:
        for layer, paths in found.of_layer.items():
            for path, array in zip(paths, weights[layer], strict=True):
                file.create_dataset(path, data=array.astype("float32"))

    with tempfile.TemporaryDirectory(prefix="tapeline-model-") as folder:
        packed = Path(folder, "packed.keras")
        with zipfile.ZipFile(packed, "x") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0", "date_saved": ""}))
            archive.writestr("config.json", json.dumps(legacy.without_shapes(translated)))
            archive.writestr("model.weights.h5", image(fill))
        return _load_scanned(packed, "the model")


def refused(message: str) -> TapelineError:
    """A `model_refused` error."""
    return refusal(message, hint="load it where you trust it and save it as .keras: model.save('model.keras')")


def _steady(member: str, content: bytes) -> bytes:
    """A member without what differs between two writes of one model."""
    if member == "metadata.json":
        return json.dumps({**json.loads(content), "date_saved": "1980-01-01@00:00:00"}).encode()
    if member != "config.json":
        return content
    config = json.loads(content)
    numbers: dict[int, int] = {}
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "shared_object_id" in value:
                value["shared_object_id"] = numbers.setdefault(value["shared_object_id"], len(numbers) + 1)
            left.extend(reversed(list(value.values())))
        elif isinstance(value, list):
            left.extend(reversed(value))
    return json.dumps(config).encode()


def _load_scanned(path: Path, name: str) -> Any:
    try:
        import keras

        from tapeline.canvas.transpile.layers import registered_layers

        registered_layers()
    except ImportError as error:
        raise TapelineError(
            "loading a model needs Keras", code="dependency_missing", hint="pip install 'tapeline[train]'"
        ) from error
    try:
        return keras.saving.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # Keras raises whatever its parts raise; all of it means that the file is refused
        raise refusal(f"{name}: Keras refused it ({type(error).__name__})") from error


def _opened(path: str | Path) -> BinaryIO:
    """A regular file, opened without following a link in its last step."""
    name = Path(path).name
    # Not blocking, so that a named pipe cannot hold the caller; it makes no difference to a file.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        hint = "name a regular file"
        raise TapelineError(f"there is no readable file {name}", code="not_found", hint=hint) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TapelineError(f"{name} is no file", code="not_found", hint="name a regular file")
    return os.fdopen(descriptor, "rb")


def _digest(source: BinaryIO, target: BinaryIO | None = None) -> tuple[str, int]:
    """SHA-256 in hex and size of a file, copied on the way where a target is given."""
    found, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK):
        size += len(block)
        if size > MAX_UNPACKED:
            raise refusal("the file has more than 2 GiB")
        found.update(block)
        if target is not None:
            target.write(block)
    return found.hexdigest(), size


def _scan(file: BinaryIO, name: str, digest: str, size: int, max_parameters: int) -> ModelScan:
    _check_kind(file, name)
    _check_directory(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive)
            budget = _Budget(min(MAX_UNPACKED, MAX_RATIO * size))
            parsed_json(budget.read(archive, "metadata.json"), "metadata.json")
            config = scan_config(parsed_json(budget.read(archive, "config.json"), "config.json"))
            if config.parameters > max_parameters:
                raise refusal(
                    f"model has {config.parameters:,} parameters; the limit is {max_parameters:,}",
                    hint="use a smaller network",
                )
            with tempfile.TemporaryFile() as weights:
                budget.copy(archive, "model.weights.h5", weights)
                _check_weights(config, weight_shapes(weights))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise refusal(f"{name}: damaged archive ({type(error).__name__})", hint="save the model again") from error
    return ModelScan(digest, size, config.inputs, config.outputs, config.layers, config.parameters)


def _check_kind(file: BinaryIO, name: str) -> None:
    file.seek(0)
    magic = file.read(8)
    suffix = Path(name).suffix.lower()
    if suffix in (".h5", ".hdf5") or magic.startswith(b"\x89HDF"):
        raise refusal(
            f"{name}: legacy HDF5 models are not loaded; use convert=True", hint="or save it as .keras with Keras 3"
        )
    if suffix != ".keras" or not magic.startswith(b"PK\x03\x04"):
        raise refusal(f"{name}: not a .keras file", hint="save the model with model.save('model.keras')")


def _check_directory(file: BinaryIO, size: int) -> None:
    """Refuses an archive whose directory is large, elsewhere, or said twice, before it is parsed.

    Notes
    -----
    `zipfile` reads as much of a directory as the end record claims, wherever that points. A file that Keras
    writes has its end record in the last 22 bytes and its directory right before it.
    """
    file.seek(max(0, size - _END_SIZE - len(_ZIP64) - 16))
    tail = file.read()
    end = tail[-_END_SIZE:]
    if len(end) < _END_SIZE or not end.startswith(_END) or end[20:22] != b"\0\0":
        raise refusal("the archive does not end with its directory")
    entries = int.from_bytes(end[10:12], "little")
    length, start = int.from_bytes(end[12:16], "little"), int.from_bytes(end[16:20], "little")
    if entries > MAX_ENTRIES or length > MAX_ENTRIES * 1024:
        raise refusal(f"the archive has more than {MAX_ENTRIES} members")
    if start + length + _END_SIZE != size or tail[: len(_ZIP64)] == _ZIP64:
        raise refusal("the directory of the archive is not where it belongs")
    file.seek(0)


def _check_members(archive: zipfile.ZipFile) -> None:
    found = archive.infolist()
    for info in found:
        if info.filename not in MEMBERS:
            raise refusal(f"unexpected member {info.filename[:60]!r} in archive")
        if info.flag_bits & 0x1:
            raise refusal(f"member {info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refusal(f"member {info.filename!r} is packed by method {info.compress_type}")
    names = [info.filename for info in found]
    for member in MEMBERS:
        if names.count(member) != 1:
            raise refusal(f"member {member!r} occurs {names.count(member)} times in archive")


class _Budget:
    """How many bytes may still be unpacked; what the headers say is not believed."""

    def __init__(self, left: int) -> None:
        self._left = left

    def read(self, archive: zipfile.ZipFile, member: str) -> bytes:
        """A JSON member."""
        with archive.open(member) as source:
            content = source.read(min(self._left, MAX_JSON_BYTES) + 1)
        if len(content) > MAX_JSON_BYTES:
            raise refusal(f"{member} has more than {MAX_JSON_BYTES >> 20} MiB")
        self._spend(len(content))
        return content

    def copy(self, archive: zipfile.ZipFile, member: str, target: Any) -> None:
        """The weights, into a file."""
        with archive.open(member) as source:
            while block := source.read(_BLOCK):
                self._spend(len(block))
                target.write(block)
        target.seek(0)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise refusal(f"archive unpacks to more than 2 GiB, or to {MAX_RATIO} times its size")


def _check_weights(config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    for path, shape in config.weights.items():
        if path not in shapes:
            raise refusal(f"weights {path!r} are missing")
        if shapes[path] != shape:
            raise refusal(f"weights of {path!r}: shape {shapes[path]} does not match the layer, which has {shape}")
    state = 0
    for path, shape in shapes.items():
        if path.startswith("/optimizer/"):
            state += prod(shape)
        elif path not in config.weights:
            raise refusal(f"weights {path!r} belong to no layer")
    if state > 4 * config.parameters + 1024:
        raise refusal("the optimizer's state is larger than the model")
