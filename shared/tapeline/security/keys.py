"""Identities: an nkey each, kept in a file that only its owner can read.

A credential file is an nkey file, the seed between its markers, with comment lines that say whose it is:

    # role user
    # team main
    # user me
    -----BEGIN USER NKEY SEED-----
    SU...
    ------END USER NKEY SEED------

Seeds are never printed, logged, passed on a command line or put into an environment variable.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import nkeys

from tapeline import subjects
from tapeline.errors import TapelineError

Role = Literal["admin", "replay", "seal", "service", "user", "agent"]
ROLES: frozenset[str] = frozenset(get_args(Role))

_BEGIN = "-----BEGIN USER NKEY SEED-----"
_END = "------END USER NKEY SEED------"
_COMMENT = re.compile(r"# ?(role|server|team|user|agent|service|ca) (\S.*)")
_PUBLIC = re.compile(r"U[A-Z2-7]{55}")
_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Seed:
    """The secret half of an nkey; its text shows nothing."""

    _text: str = field(repr=False)

    def reveal(self) -> str:
        """The seed itself, for signing and for its file alone."""
        return self._text

    def __str__(self) -> str:
        return "[redacted]"


@dataclass(frozen=True, slots=True)
class Key:
    """An nkey: the public half that the server knows, and the seed."""

    public: str
    seed: Seed


@dataclass(frozen=True, slots=True)
class Credentials:
    """An identity as its file holds it: the key, whose it is, and where it signs in.

    Exactly the fields of its role are set: `team` and `user` for a user, `agent` for an agent, `service`
    for a service, none for admin, replay and seal.
    """

    key: Key
    role: Role
    team: str | None = None
    user: str | None = None
    agent: str | None = None
    service: str | None = None
    server: str | None = None
    ca: str | None = None
    path: Path | None = None

    @property
    def inbox(self) -> str:
        """The inbox prefix that the broker permits to this identity."""
        match self.role:
            case "user":
                return subjects.inbox("user", self.user or "")
            case "agent":
                return subjects.inbox("agent")
            case "service":
                return subjects.inbox("service", self.service or "")
            case "replay":
                return subjects.inbox("replay")
            case "admin":
                return subjects.inbox("admin")
            case "seal":
                raise TapelineError("the seal key only signs; it cannot sign in", code="forbidden")

    def sign(self, text: bytes) -> bytes:
        """The 64-byte Ed25519 signature of a text."""
        pair = nkeys.from_seed(bytearray(self.key.seed.reveal().encode("ascii")))
        signature: bytes = pair.sign(text)
        return signature


def create_key() -> Key:
    """A new user nkey from the system's random source."""
    encoded: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return _key_of(encoded.decode("ascii"))


def is_public_key(text: str) -> bool:
    """Whether a text has the form of a user's public nkey."""
    return _PUBLIC.fullmatch(text) is not None


def verify(public: str, text: bytes, signature: bytes) -> bool:
    """Whether a signature over a text was made with the seed of a public nkey."""
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    raw = base64.b32decode(public)
    try:
        VerifyKey(raw[1:33]).verify(text, signature)
    except BadSignatureError:
        return False
    return True


def write_credentials(path: Path, credentials: Credentials) -> Credentials:
    """Put an identity into a new file of mode 0600; the identity with its path.

    Raises
    ------
    TapelineError
        `already_exists` when there is a file or a link of that name; it is left as it was.
    """
    lines = [f"# role {credentials.role}"]
    for name in ("server", "team", "user", "agent", "service", "ca"):
        value: str | None = getattr(credentials, name)
        if value is not None:
            if "\n" in value or "\r" in value:
                raise TapelineError(f"{name} of a credential file holds a line break", code="invalid")
            lines.append(f"# {name} {value}")
    lines += [_BEGIN, credentials.key.seed.reveal(), _END, ""]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise TapelineError(
            f"the file {path} exists; a credential file is never overwritten",
            code="already_exists",
            hint=f"choose another name, or remove it: rm {path}",
        ) from error
    except OSError as error:
        raise TapelineError(
            f"the credential file {path} cannot be made: {error.strerror}",
            code="forbidden",
            hint="choose a folder that you can write to",
        ) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # The mode above is cut by the umask; state it, so that it is 0600 under every umask.
        os.fchmod(file.fileno(), 0o600)
        file.write("\n".join(lines))
        file.flush()
        os.fsync(file.fileno())
    return Credentials(
        credentials.key, credentials.role, credentials.team, credentials.user, credentials.agent,
        credentials.service, credentials.server, credentials.ca, path,
    )  # fmt: skip


def read_credentials(path: Path) -> Credentials:
    """The identity in a credential file.

    Raises
    ------
    TapelineError
        `unauthenticated` when the file is missing; `forbidden` when others may read it, another user owns
        it or it is no regular file; `invalid` when it holds no identity.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise TapelineError(
            f"no credentials: looked in {path}",
            code="unauthenticated",
            hint='run "tapeline up" or ask your operator for a file',
        ) from error
    except OSError as error:
        raise TapelineError(
            f"the credential file {path} cannot be opened: {error.strerror}",
            code="forbidden",
            hint="it must be a plain file of your own, not a link",
        ) from error
    try:
        _check_private(path, os.fstat(descriptor))
        content = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise _not_an_identity(path, "it is larger than 16 KiB")
    return _parse(content, path)


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise TapelineError(
            f"the credential file {path} is not a plain file", code="forbidden", hint="name a plain file"
        )
    if found.st_uid != os.geteuid():
        raise TapelineError(
            f"credential file {path} belongs to user {found.st_uid}",
            code="forbidden",
            hint="use a file of your own",
        )
    if found.st_mode & 0o077:
        raise TapelineError(
            f"credential file {path} has mode {found.st_mode & 0o777:04o}",
            code="forbidden",
            hint=f"chmod 600 {path}",
        )


def _parse(content: bytes, path: Path) -> Credentials:
    try:
        lines = [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise _not_an_identity(path, "it is not UTF-8 text") from error
    said: dict[str, str] = {}
    for line in lines:
        if (comment := _COMMENT.fullmatch(line)) is not None:
            said[comment[1]] = comment[2].strip()
    bodies = [line for line in lines if not line.startswith("#") and line not in (_BEGIN, _END)]
    if len(bodies) != 1:
        raise _not_an_identity(path, f"it holds {len(bodies)} seed lines, must hold one")
    try:
        key = _key_of(bodies[0])
    except TapelineError as error:
        raise _not_an_identity(path, error.message) from error
    role = said.get("role") or _role_of(said)
    if role not in ROLES:
        raise _not_an_identity(path, "its comment lines name no role, user or agent")
    needed: dict[str, tuple[str, ...]] = {"user": ("team", "user"), "agent": ("agent",), "service": ("service",)}
    for name in needed.get(role, ()):
        if not subjects.is_slug(said.get(name, "")):
            raise _not_an_identity(path, f"its line '# {name} ...' is missing or malformed")
    return Credentials(
        key, role, said.get("team"), said.get("user"), said.get("agent"), said.get("service"),  # type: ignore[arg-type]
        said.get("server"), said.get("ca"), path,
    )  # fmt: skip


def _role_of(said: dict[str, str]) -> str:
    return next((role for role in ("agent", "service", "user") if role in said), "")


def _key_of(seed: str) -> Key:
    try:
        prefix, raw = nkeys.decode_seed(bytearray(seed.encode("ascii")))
        if prefix != nkeys.PREFIX_BYTE_USER:
            raise TapelineError("its seed is not one of a user", code="invalid")
        # The library does not look at the checksum; a seed with a typing error would sign as somebody else.
        if nkeys.encode_seed(bytes(raw), prefix).decode("ascii") != seed:
            raise TapelineError("the checksum of its seed does not fit", code="invalid")
        pair = nkeys.from_seed(bytearray(seed.encode("ascii")))
        return Key(bytes(pair.public_key).decode("ascii"), Seed(seed))
    except (nkeys.NkeysError, ValueError) as error:
        # The library's own text may quote the seed: it is not repeated.
        raise TapelineError("its seed line is not an nkey seed", code="invalid") from error


def _not_an_identity(path: Path, why: str) -> TapelineError:
    return TapelineError(
        f"{path} is not a credential file: {why}", code="invalid", hint="ask your operator for a new file"
    )
