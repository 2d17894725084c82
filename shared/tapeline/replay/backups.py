"""The log, exported by itself: every night, after so many commits, and tried out every week.

Backups lie under `backups/<log id>/` of the artifact store, one export a log. What the last one did lies beside
it, for `tapeline log lag`. A backup that fails stops nothing: it is told, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from tapeline.clock import Clock
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, read_json, write_json
from tapeline.log import EventLog
from tapeline.logs import get_logger
from tapeline.replay.exports import export
from tapeline.replay.manifest import MANIFEST, read_manifest
from tapeline.replay.reading import opened
from tapeline.replay.seals import Shelf

FOLDER = "backups"
REPORT = "report.json"
EVERY = 50_000
NIGHTLY = timedelta(hours=24)
WEEKLY = timedelta(days=7)
BEGIN_S = 300.0
"""So long after its start a service looks for the first time: it has other things to do before."""
CHECK_S = 60.0
_log = get_logger()

Drill = Callable[[Path], Awaitable[str]]


class Backup(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the archivist last did: an export up to `position`, and a trial import of it.

    `error` says why the last export failed, `drill_error` what the trial found; both are gone once it went well.
    """

    position: int = 0
    exported_at: datetime | None = None
    error: str | None = None
    drilled_at: datetime | None = None
    drill: str | None = None
    drill_error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.error is None and self.drill_error is None

    def told(self, head: int, now: datetime) -> str:
        """One sentence for people: how far it reaches, how old it is, and whether it can be restored."""
        if self.exported_at is None:
            found = "backup: none yet"
        else:
            found = f"backup: up to {self.position} of {head}, {_ago(now - self.exported_at)}"
        if self.error is not None:
            found += f"; the last export failed: {self.error}"
        if self.drilled_at is not None:
            told = f"passed, {self.drill}" if self.drill_error is None else f"failed: {self.drill_error}"
            found += f"; the restore drill {_ago(now - self.drilled_at)} {told}"
        return found


def _ago(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.1f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"


def folder_of(home: Home, log_id: str) -> Path:
    """Where the backups of a log lie."""
    return home.store / FOLDER / log_id


def read_backup(home: Home, log_id: str) -> Backup:
    """What the archivist last did for a log."""
    found = read_json(folder_of(home, log_id) / REPORT)
    try:
        return msgspec.convert(found or {}, Backup)
    except msgspec.ValidationError as error:
        return Backup(error=f"{REPORT} cannot be read: {error}")


@dataclass(frozen=True, slots=True)
class Backups:
    """Exports one log and tries the export out.

    Parameters
    ----------
    every
        After how many commits an export is due, if the night has not come before.
    drill
        Tries an export out: what it found in words, or `TapelineError`.
    """

    log: EventLog
    home: Home
    shelf: Shelf
    clock: Clock
    every: int = EVERY
    drill: Drill | None = None

    async def run(self) -> None:
        """Export and try out, for ever."""
        await asyncio.sleep(BEGIN_S)
        while True:
            try:
                await self.look()
            except TapelineError as error:
                _log.warning("backup_waits", code=error.code, why=error.message)
            await asyncio.sleep(CHECK_S)

    async def look(self) -> Backup:
        """Do what is due; what was last done then."""
        head = await self.log.head()
        folder = folder_of(self.home, head.log_id)
        known = before = read_backup(self.home, head.log_id)
        now = self.clock.now()
        new = head.position - known.position
        is_night = known.exported_at is None or now - known.exported_at >= NIGHTLY
        if new >= self.every or (new > 0 and is_night) or known.error is not None:
            known = await self._exported(folder, head.log_id, known)
        is_week = known.drilled_at is None or now - known.drilled_at >= WEEKLY
        if is_week and known.error is None and (folder / MANIFEST).exists():
            known = await self._tried(folder, known)
        if known != before:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(folder / REPORT, msgspec.to_builtins(known))
        return known

    async def _exported(self, folder: Path, log_id: str, known: Backup) -> Backup:
        seal = self.shelf.last(log_id)
        try:
            made = await export(self.log, folder, seal=seal.to_json() if seal is not None else None)
        except (TapelineError, OSError) as error:
            why = error.message if isinstance(error, TapelineError) else str(error)
            _log.error("backup_failed", folder=str(folder), why=why)
            return msgspec.structs.replace(known, error=why)
        _log.info("backup_made", folder=str(folder), position=made.position)
        return msgspec.structs.replace(known, position=made.position, exported_at=self.clock.now(), error=None)

    async def _tried(self, folder: Path, known: Backup) -> Backup:
        position = read_manifest(folder).position
        try:
            found = await (self.drill or try_out)(folder)
        except TapelineError as error:
            _log.error("restore_drill_failed", folder=str(folder), why=error.message)
            return msgspec.structs.replace(known, drilled_at=self.clock.now(), drill_error=error.message)
        _log.info("restore_drill", folder=str(folder), position=position, found=found)
        return msgspec.structs.replace(known, drilled_at=self.clock.now(), drill=found, drill_error=None)


async def try_out(folder: Path) -> str:
    """`tapeline log import --verify-only` of an export, in a process of its own: it computes for a while.

    Raises
    ------
    TapelineError
        What the import was refused with.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tapeline.cli", "log", "import", str(folder), "--verify-only", "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, fault = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _refusal(fault, process.returncode)
    found: dict[str, Any] = msgspec.json.decode(out)
    return f"{found['events']} events in {found['commits']} commits"


def _refusal(fault: bytes, code: int | None) -> TapelineError:
    """The error that the import printed last."""
    for line in reversed(fault.splitlines()):
        with contextlib.suppress(msgspec.MsgspecError):
            told: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
            if isinstance(error := told.get("error"), dict):
                return TapelineError(str(error.get("message")), code="corrupt")
    return TapelineError(f"the import ended with {code}: {fault[-200:].decode(errors='replace')}", code="corrupt")


@dataclass(frozen=True, slots=True)
class Backed:
    """How far the backup of a log is behind it, and what the archivist last did."""

    backup: Backup
    head: int

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys, beside the rows of `log lag`."""
        made: dict[str, Any] = dict.fromkeys(Backup.__struct_fields__) | msgspec.to_builtins(self.backup)
        return {
            "service": "runs",
            "name": "backup",
            "lag": self.head - self.backup.position,
            "ok": self.backup.ok,
        } | made

    def __str__(self) -> str:
        return self.backup.told(self.head, datetime.now(UTC))


async def backup_of(home: Home | None = None) -> Backed:
    """The backup of a home's log, as its archivist left it."""
    home = home or find_home()
    async with opened(home) as log:
        head = await log.head()
    return Backed(read_backup(home, head.log_id), head.position)
