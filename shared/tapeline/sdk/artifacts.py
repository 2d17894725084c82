"""Bytes of artifacts: uploaded in parts, downloaded into a cache that is checked by hash."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapeline.errors import ValidationError
from tapeline.sdk.client import Client

PART_BYTES = 384 * 1024
_CHUNK = 1024 * 1024
Told = Callable[[int], Any]


def digest_of(path: Path) -> tuple[str, int]:
    """The SHA-256 and size of a file."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
            size += len(chunk)
    return hashed.hexdigest(), size


def upload(client: Client, service: str, path: Path, *, told: Told | None = None) -> str:
    """Put a file into the store and give its SHA-256; bytes that are there already are not sent again."""
    sha256, size = digest_of(path)
    begun = client.command(service, "begin_upload", size_bytes=size, sha256=sha256).view
    sent = int(begun.get("received_bytes") or 0)
    with path.open("rb") as file:
        file.seek(sent)
        while not begun["complete"]:
            part = file.read(PART_BYTES)
            if not part and sent < size:
                raise ValidationError.of("invalid", f"{path} became shorter while it was read", hint="send it again")
            begun = client.command(
                service, "upload_part", upload_id=begun["upload_id"], offset=sent, data=base64.b64encode(part).decode()
            ).view
            sent += len(part)
            if told is not None:
                told(len(part))
    return sha256


def fetch(client: Client, service: str, artifact: dict[str, Any], folder: Path, *, told: Told | None = None) -> Path:
    """The file of an artifact in a folder, downloaded when it is not there with the right hash.

    Raises
    ------
    ValidationError
        What was downloaded has another hash.
    """
    target = folder / safe_name(artifact["name"])
    sha256, size = str(artifact["sha256"]), int(artifact["size_bytes"])
    if target.is_file() and target.stat().st_size == size and digest_of(target)[0] == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=folder)
    try:
        hashed, offset = hashlib.sha256(), 0
        with os.fdopen(descriptor, "wb") as file:
            while offset < size:
                wanted = min(PART_BYTES, size - offset)
                view = client.query(service, "read_artifact", sha256=sha256, offset=offset, size_bytes=wanted)
                part = base64.b64decode(view["data"], validate=True)
                if not part:
                    break
                hashed.update(part)
                file.write(part)
                offset += len(part)
                if told is not None:
                    told(len(part))
            file.flush()
            os.fsync(file.fileno())
        if hashed.hexdigest() != sha256:
            raise ValidationError.of(
                "corrupt", f"the bytes of {target.name} do not have the digest {sha256[:12]}…", hint="tapeline doctor"
            )
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return target


def cache(client: Client, kind: str, name: str) -> Path:
    """The folder below `TAPELINE_HOME` where files of one thing are kept."""
    return client.settings.home.root / "cache" / client.team / kind / safe_name(name)


def safe_name(name: str) -> str:
    """A name as one part of a path; what a path could misread becomes its hash."""
    plain = name.replace("-", "a").replace("_", "a").replace(".", "a")
    if plain.isascii() and plain.isalnum() and not name.startswith(".") and len(name) <= 128:
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:32]
