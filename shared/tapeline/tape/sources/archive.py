"""Files, gzip files and members of zip archives as pieces of whole lines, within limits."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from tapeline.errors import TapelineError

PIECE = 8 * 2**20
MOST_MEMBER = 16 * 2**30
MOST_RATIO = 300
# A small file of equal rows shrinks further than any bomb has to.
RATIO_FROM = 16 * 2**20
MOST_MEMBERS = 10_000
MOST_LINE = 65_536


class Piece(NamedTuple):
    """Whole lines of one file or member; `first_line` counts from 1."""

    member: str
    first_line: int
    text: bytes
    is_last: bool
    done_bytes: int


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive by its name."""
    return path.suffix.lower() == ".zip"


def broken(path: Path, why: str) -> TapelineError:
    """The refusal of an archive that cannot be read to its end."""
    return TapelineError(f"{path.name} {why}", code="unsupported_format", hint="fetch the file again")


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive; one that is broken is refused by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > MOST_MEMBERS:
                raise TapelineError(
                    f"{path.name} has {len(archive.infolist())} members",
                    code="limit_exceeded",
                    hint=f"split it into archives of at most {MOST_MEMBERS}",
                )
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise broken(path, f"is no complete zip archive: {error}") from error


def members(path: Path) -> list[str]:
    """The files of a zip archive, sorted by name."""
    with opened(path) as archive:
        return sorted(info.filename for info in archive.infolist() if not info.is_dir())


def pieces(path: Path, member: str | None = None) -> Iterator[Piece]:
    """The lines of a file, a gzip file, or the members of a zip archive (or one of them)."""
    size = path.stat().st_size
    if is_zip(path):
        with opened(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            infos = [info for info in infos if member is None or info.filename == member]
            done = 0
            for info in sorted(infos, key=lambda one: one.filename):
                with archive.open(info) as file:
                    yield from _lines(file, path, info.filename, max(info.compress_size, 1), done)
                done += info.compress_size
    elif path.suffix.lower() == ".gz":
        try:
            with gzip.open(path, "rb") as file:
                yield from _lines(file, path, path.name, max(size, 1), 0)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise broken(path, f"is no complete gzip file: {error}") from error
    else:
        with path.open("rb") as file:
            yield from _lines(file, path, path.name, 0, 0)


def _lines(file: IO[bytes] | gzip.GzipFile, path: Path, member: str, packed: int, done: int) -> Iterator[Piece]:
    """Cut a stream into pieces of whole lines; what it really holds is counted, headers are not trusted."""
    rest, line, total, held = b"", 1, 0, b""
    while True:
        block = file.read(PIECE)
        total += len(block)
        if total > MOST_MEMBER or (packed and total > RATIO_FROM and total > MOST_RATIO * packed):
            raise TapelineError(
                f"{path.name}: {member} unpacks to more than {total - len(block):,} bytes",
                code="limit_exceeded",
                hint=f"a member may have 16 GiB and {MOST_RATIO} times its packed size",
            )
        if not block:
            break
        rest += block
        cut = rest.rfind(b"\n") + 1
        if cut == 0:
            if len(rest) > MOST_LINE:
                raise TapelineError(
                    f"{path.name}: line {line} is longer than 64 KiB",
                    code="limit_exceeded",
                    hint="check that the file is text",
                )
            continue
        if held:
            yield Piece(member, line, held, False, done + (min(total, packed) if packed else total))
            line += held.count(b"\n")
        held, rest = rest[:cut], rest[cut:]
    held += rest
    if held:
        yield Piece(member, line, held, True, done + (packed or total))


def first_lines(path: Path, n: int) -> list[str]:
    """The first lines of a file or of an archive's first member."""
    for piece in pieces(path):
        return piece.text[: n * MOST_LINE].decode("utf-8", "replace").splitlines()[:n]
    return []
