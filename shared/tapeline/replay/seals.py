"""Seals: signed roots over the log up to a position, kept outside of the broker.

Chains prove that what is there is unaltered; a seal proves that nothing at the end is gone. A seal is a JSON
object `{kind, log_id, position, digest, root, time, key, signature}`, signed with an Ed25519 nkey over its
canonical JSON without `signature`. Seals of one log lie, one a line and in the order in which they were made,
in an append-only file of the home, and each under its own name in the artifact store.

A seal of kind `forgotten` is an operator's admission of loss: positions after its own, up to `lost_upto`, are
gone, and the seals over them void. It stays for ever.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log import EventLog, wire
from tapeline.log.codec import digest
from tapeline.security.accounts import load_accounts
from tapeline.security.keys import Credentials, is_public_key, verify
from tapeline.subjects import is_slug


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A signed root. `time` is text in UTC; `key` the public nkey, `signature` in base64."""

    kind: str
    log_id: str
    position: int
    digest: str
    root: str
    time: str
    key: str
    lost_upto: int | None = None
    signature: str = ""

    def to_json(self) -> dict[str, Any]:
        """The seal as it is stored."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def __str__(self) -> str:
        lost = f", forgets {self.position + 1} to {self.lost_upto}" if self.lost_upto is not None else ""
        return f"{self.position}  {self.time}  root {self.root[:16]}  key {self.key[:12]}{lost}"


def _canonical(seal: Seal) -> bytes:
    unsigned = {name: value for name, value in seal.to_json().items() if name != "signature"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def signed(
    credentials: Credentials,
    *,
    log_id: str,
    position: int,
    sealed_digest: str,
    root: bytes,
    at: datetime,
    lost_upto: int | None = None,
) -> Seal:
    """A seal over the log up to a position, or with `lost_upto` the admission that what follows is gone."""
    seal = Seal(
        kind="seal" if lost_upto is None else "forgotten",
        log_id=log_id,
        position=position,
        digest=sealed_digest,
        root=root.hex(),
        time=wire.time_text(at),
        key=credentials.key.public,
        lost_upto=lost_upto,
    )
    signature = base64.b64encode(credentials.sign(_canonical(seal))).decode()
    return msgspec.structs.replace(seal, signature=signature)


def is_signed(seal: Seal, keys: Collection[str]) -> bool:
    """Whether a seal is signed by one of these public keys."""
    if seal.key not in keys or not is_public_key(seal.key):
        return False
    try:
        signature = base64.b64decode(seal.signature, validate=True)
    except ValueError:
        return False
    return len(signature) == 64 and verify(seal.key, _canonical(seal), signature)


def holding(seals: Sequence[Seal]) -> list[Seal]:
    """The seals that hold: those over positions that an operator has forgotten are left out."""
    found: list[Seal] = []
    for seal in seals:
        if seal.kind == "forgotten":
            found = [one for one in found if one.position <= seal.position]
        if seal.position > 0:
            found.append(seal)
    return found


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the seals of a home lie, and whose they are."""

    folder: Path
    keys: frozenset[str]

    def file(self, log_id: str) -> Path:
        """The append-only file of one log's seals."""
        if not is_slug(log_id):
            raise TapelineError(f"{log_id!r} is not the id of a log", code="invalid")
        return self.folder / f"{log_id}.jsonl"

    def every(self, log_id: str) -> list[Seal]:
        """All seals of a log in the order in which they were made.

        Raises
        ------
        TapelineError
            `log_damaged` for a line that is no seal, is of another log, or is not signed by a known key.
        """
        path = self.file(log_id)
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        if lines[-1]:
            # The one writer died within a line: it had not been told that the seal is there.
            lines.pop()
        seals = []
        for number, line in enumerate(filter(None, lines), 1):
            try:
                seal = msgspec.json.decode(line, type=Seal)
            except msgspec.MsgspecError as error:
                raise TapelineError(
                    f"{path}, line {number} is no seal: {error}", code="log_damaged", hint=_HINT
                ) from error
            if not is_signed(seal, self.keys):
                raise TapelineError(
                    f"seal {seal.position} is not signed by a known key", code="log_damaged", hint=_HINT
                )
            if seal.log_id != log_id:
                raise TapelineError(
                    f"{path}, line {number} is a seal of log {seal.log_id}", code="log_damaged", hint=_HINT
                )
            seals.append(seal)
        return seals

    def last(self, log_id: str) -> Seal | None:
        """The last seal that holds."""
        found = holding(self.every(log_id))
        return found[-1] if found else None

    def add(self, seal: Seal) -> None:
        """Put a seal at the end of its file, on disk before this returns."""
        path = self.file(seal.log_id)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            if torn:
                os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)
            os.write(descriptor, msgspec.json.encode(seal) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def name(self, seal: Seal) -> str:
        """The name of a seal in the artifact store. After a loss positions come again: the name says which time."""
        times = sum(one.kind == "forgotten" for one in self.every(seal.log_id))
        again = f".{times}" if times else ""
        forgotten = ".forgotten" if seal.kind == "forgotten" else ""
        return f"{seal.log_id}/{seal.position:020d}{again}{forgotten}.json"


_HINT = "compare with the copy in the artifact store, store/seals; tapeline log verify"


def shelf(home: Home) -> Shelf:
    """The seals of a home; the key that signs them is the one that `teams.toml` names."""
    known = home.teams_file.exists()
    return Shelf(home.seals, frozenset({load_accounts(home.teams_file).seal} if known else ()))


def last_seal(home: Home, log_id: str) -> dict[str, Any] | None:
    """The last seal of a log as JSON; none when it has none."""
    found = shelf(home).last(log_id)
    return found.to_json() if found is not None else None


async def check_seals(log: EventLog, shelf: Shelf) -> None:
    """Refuse a log whose end is older than its last seal, or whose sealed commit is another one.

    Raises
    ------
    TapelineError
        `log_behind_seal`, `log_damaged`.
    """
    head = await log.head()
    last = shelf.last(head.log_id)
    if last is None:
        return
    if head.position < last.position:
        raise TapelineError(
            f"the log ends at {head.position}, but {last.position} was sealed on {last.time[:10]}",
            code="log_behind_seal",
            hint="restore from backup (tapeline log import) or run "
            f"'tapeline log seal --forget-after {head.position} --yes'",
        )
    found = [one async for many in log.read(after=last.position - 1, upto=last.position) for one in many]
    if [digest(one.subject, one.header, one.body) for one in found] != [last.digest]:
        raise TapelineError(
            f"the commit at position {last.position} is not the one that was sealed on {last.time[:10]}",
            code="log_damaged",
            hint="tapeline log verify says where it begins; restore from backup (tapeline log import)",
        )
