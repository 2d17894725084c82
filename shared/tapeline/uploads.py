"""Uploads: a file comes in parts, in order, and counts only once its size and digest agree.

A service that takes files offers `begin_upload` and `upload_part`; what was uploaded whole waits in a
private folder under its digest, apart for each team, until a command of that team names it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeline.bus import Verbs, answered
from tapeline.clock import Clock
from tapeline.contracts.artifacts import PART_BYTES, BeginUpload, UploadPart, UploadView
from tapeline.contracts.message import Answer
from tapeline.errors import TapelineError
from tapeline.ids import derived_id, new_id
from tapeline.subjects import Principal

OPEN_PER_USER = 8
TEAM_BYTES = 16 * 1024**3
STALE_S = 24 * 3600.0
SWEEP_EVERY_S = 900.0
REMEMBERED = 1024


@dataclass(slots=True)
class _Open:
    """One upload under way."""

    owner: Principal
    sha256: str
    size_bytes: int
    path: Path
    digest: Any
    touched: float
    received: int = 0


class Held:
    """Uploaded files that stay while a command reads them, whatever another command does with its names for them.

    Two imports of the same files share what was uploaded; the first to end removes it.
    """

    def __init__(self, whole: Path, folder: Path) -> None:
        self._whole = whole
        self._folder = folder

    def path(self, team: str, sha256: str) -> Path:
        """The file with this digest that the team has uploaded whole, under a name of our own; `not_found`."""
        target = self._folder / f"{team}.{sha256}"
        try:
            os.link(self._whole / team / sha256, target, follow_symlinks=False)
        except FileExistsError:
            pass
        except FileNotFoundError as error:
            raise _absent(sha256) from error
        return target


class Uploads:
    """The files that users are uploading, and those that have come whole.

    Parameters
    ----------
    folder
        Private folder of the service; made with mode 0700. An upload that was cut off by the end of the
        process is begun again; files that had come whole stay.
    clock
        Its monotonic time tells what is stale.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        # A repeat of the last part must be answered like the first time.
        self._done: OrderedDict[str, tuple[Principal, int]] = OrderedDict()
        for part in ("open", "held"):
            shutil.rmtree(folder / part, ignore_errors=True)
        for part in ("open", "held", "whole"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)

    async def begin(self, caller: Principal, request: BeginUpload) -> UploadView:
        """Open an upload; a file that the team has uploaded already is complete at once.

        Raises
        ------
        TapelineError
            `insufficient_storage` when the user has 8 open uploads or the team's staging is full.
        """
        upload_id = derived_id("upload", caller.team, caller.user, request.command_id or new_id())
        if self._is_whole(caller.team, request.sha256, request.size_bytes):
            return _view(upload_id, request.size_bytes, request.size_bytes, complete=True)
        known = self._open.get(upload_id)
        if known is not None:
            return _view(upload_id, known.size_bytes, known.received)
        await self.sweep()
        mine = [upload for upload in self._open.values() if upload.owner == caller]
        if len(mine) >= OPEN_PER_USER:
            raise TapelineError(
                f"{len(mine)} uploads of user {caller.user!r} are open, the limit is {OPEN_PER_USER}",
                code="insufficient_storage",
                hint="finish one first; an upload that is left alone is swept after 24 hours",
            )
        held = self._held(caller.team)
        if held + request.size_bytes > TEAM_BYTES:
            raise TapelineError(
                f"{request.size_bytes} bytes do not fit the team's staging: {held} of {TEAM_BYTES} are taken",
                code="insufficient_storage",
                hint="finish what was uploaded, or wait until it is swept",
            )
        path = self._folder / "open" / upload_id
        await asyncio.to_thread(path.write_bytes, b"")
        upload = _Open(caller, request.sha256, request.size_bytes, path, hashlib.sha256(), self._clock.monotonic())
        self._open[upload_id] = upload
        if request.size_bytes == 0:
            await self._finish(upload_id, upload)
            return _view(upload_id, 0, 0, complete=True)
        return _view(upload_id, request.size_bytes, 0)

    async def part(self, caller: Principal, request: UploadPart) -> UploadView:
        """Take the next part; the last one completes the upload. A part that is here already is a repeat.

        Raises
        ------
        TapelineError
            `not_found` for an upload that is not open, `conflict` for a part out of order, `invalid` for
            what is no base64 or does not agree with the declared size and digest; then nothing is kept.
        """
        done = self._done.get(request.upload_id)
        if done is not None and done[0] == caller:
            return _view(request.upload_id, done[1], done[1], complete=True)
        self._mine(caller, request.upload_id)
        async with self._locks.setdefault(request.upload_id, asyncio.Lock()):
            upload = self._mine(caller, request.upload_id)
            try:
                data = base64.b64decode(request.data, validate=True)
            except binascii.Error as error:
                raise TapelineError(
                    "the part is no base64", code="invalid", hint="encode the bytes in base64"
                ) from error
            if len(data) > PART_BYTES or not data:
                raise TapelineError(
                    f"a part of {len(data)} bytes; a part has 1 to {PART_BYTES}", code="invalid", hint="cut it smaller"
                )
            if request.offset + len(data) <= upload.received:
                return _view(request.upload_id, upload.size_bytes, upload.received)
            if request.offset != upload.received:
                raise TapelineError(
                    f"a part at {request.offset}, the upload stands at {upload.received}",
                    code="conflict",
                    hint=f"go on from offset {upload.received}",
                    data={"received_bytes": upload.received},
                )
            if upload.received + len(data) > upload.size_bytes:
                await self._drop(request.upload_id)
                raise TapelineError(
                    f"more than the declared {upload.size_bytes} bytes came", code="invalid", hint="begin again"
                )
            await asyncio.to_thread(_append, upload, data)
            upload.received += len(data)
            upload.touched = self._clock.monotonic()
            if upload.received < upload.size_bytes:
                return _view(request.upload_id, upload.size_bytes, upload.received)
            await self._finish(request.upload_id, upload)
            return _view(request.upload_id, upload.size_bytes, upload.received, complete=True)

    def path(self, team: str, sha256: str) -> Path:
        """The file with this digest that the team has uploaded whole; `not_found` without one."""
        path = self._folder / "whole" / team / sha256
        if not path.is_file():
            raise _absent(sha256)
        return path

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """Files that stay until the end of the block."""
        folder = Path(tempfile.mkdtemp(dir=self._folder / "held"))
        try:
            yield Held(self._folder / "whole", folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, team: str, *digests: str) -> None:
        """Remove files that a command has taken over, or refused."""
        for sha256 in digests:
            (self._folder / "whole" / team / sha256).unlink(missing_ok=True)

    async def sweep(self) -> None:
        """Remove what nobody has touched for 24 hours."""
        now = self._clock.monotonic()
        for upload_id in [key for key, upload in self._open.items() if now - upload.touched > STALE_S]:
            await self._drop(upload_id)
        await asyncio.to_thread(_sweep_whole, self._folder / "whole", self._clock.now().timestamp() - STALE_S)

    async def keep_swept(self) -> None:
        """Sweep for ever; a task of the service."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)

    def _mine(self, caller: Principal, upload_id: str) -> _Open:
        upload = self._open.get(upload_id)
        if upload is None or upload.owner != caller:
            raise TapelineError(f"no upload {upload_id} is open", code="not_found", hint="begin it again")
        return upload

    def _is_whole(self, team: str, sha256: str, size_bytes: int) -> bool:
        path = self._folder / "whole" / team / sha256
        try:
            if path.stat().st_size != size_bytes:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _held(self, team: str) -> int:
        folder = self._folder / "whole" / team
        whole = 0
        for path in folder.iterdir() if folder.is_dir() else ():
            with suppress(FileNotFoundError):  # a command has just taken it over
                whole += path.stat().st_size
        return whole + sum(upload.size_bytes for upload in self._open.values() if upload.owner.team == team)

    async def _finish(self, upload_id: str, upload: _Open) -> None:
        found = upload.digest.hexdigest()
        if found != upload.sha256:
            await self._drop(upload_id)
            raise TapelineError(
                f"the bytes have digest {found[:12]}, {upload.sha256[:12]} was declared",
                code="invalid",
                hint="upload the file again",
            )
        target = self._folder / "whole" / upload.owner.team / upload.sha256
        await asyncio.to_thread(_keep, upload.path, target)
        self._open.pop(upload_id, None)
        self._locks.pop(upload_id, None)
        self._done[upload_id] = (upload.owner, upload.size_bytes)
        while len(self._done) > REMEMBERED:
            self._done.popitem(last=False)

    async def _drop(self, upload_id: str) -> None:
        upload = self._open.pop(upload_id, None)
        self._locks.pop(upload_id, None)
        if upload is not None:
            await asyncio.to_thread(upload.path.unlink, True)


def _absent(sha256: str) -> TapelineError:
    return TapelineError(
        f"no file with digest {sha256[:12]} has been uploaded", code="not_found", hint="upload it first"
    )


def _append(upload: _Open, data: bytes) -> None:
    try:
        descriptor = os.open(upload.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "ab") as file:
            file.write(data)
    except OSError as error:
        raise TapelineError(
            f"the upload cannot be written: {error.strerror}", code="insufficient_storage", hint="free some disk space"
        ) from error
    upload.digest.update(data)


def _keep(path: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(path, target)


def _sweep_whole(folder: Path, before: float) -> None:
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()


def _view(upload_id: str, size_bytes: int, received: int, *, complete: bool = False) -> UploadView:
    return UploadView(upload_id=upload_id, size_bytes=size_bytes, received_bytes=received, complete=complete)


def add_upload_verbs(verbs: Verbs, uploads: Uploads, log_id: str) -> None:
    """Register `begin_upload` and `upload_part` with a service."""

    @verbs.user("begin_upload")
    async def begin_upload(caller: Principal, request: BeginUpload) -> Answer[UploadView]:
        return answered(await uploads.begin(caller, request), 0, log_id)

    @verbs.user("upload_part")
    async def upload_part(caller: Principal, request: UploadPart) -> Answer[UploadView]:
        return answered(await uploads.part(caller, request), 0, log_id)
