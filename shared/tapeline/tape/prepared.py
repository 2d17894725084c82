"""A tape made ready in a folder: day files named by digest, and the manifest. Uploading it is another's work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.tape import day_file, manifest
from tapeline.tape.sessions import Calendar, Segment
from tapeline.tape.trades import Trades, check

Progress = Callable[[dict[str, Any]], None]
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file to upload: where it lies, its digest and its size in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PreparedTape:
    """A complete tape in a folder.

    Attributes
    ----------
    manifest_file : the manifest, which names every file of `files` by digest
    files : the day files, each content once
    """

    folder: Path
    manifest: dict[str, Any]
    manifest_file: PreparedFile
    files: list[PreparedFile]

    @property
    def content_sha256(self) -> str:
        """The digest of the tape's numbers."""
        return str(self.manifest["content_sha256"])

    @property
    def symbols(self) -> list[str]:
        """The symbols, sorted."""
        return [str(symbol["symbol"]) for symbol in self.manifest["symbols"]]

    @property
    def days(self) -> list[str]:
        """The trade dates that have trades, sorted, each once."""
        return sorted({str(day["trade_date"]) for day in self.manifest["days"]})

    @property
    def rows(self) -> int:
        """Trades in all, void ones included."""
        return sum(int(day["rows"]) for day in self.manifest["days"])

    @property
    def report(self) -> dict[str, Any]:
        """What the import found."""
        return dict(self.manifest["report"])

    def path_of(self, digest: str) -> Path:
        """Where the day file of a digest lies."""
        return self.folder / f"{digest}.h5"


@dataclass(slots=True)
class TapeWriter:
    """Writes the day files of a tape into a folder and ends with its manifest."""

    folder: Path
    calendar: Calendar
    currency: str = ""
    tick_size: float | None = None
    codec: str = "none"
    allow_nonpositive: bool = False
    days: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    files: dict[str, PreparedFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add(self, symbol: str, trade_date: str, trades: Trades) -> None:
        """Write one day; its type of volume must be that of the symbol's other days."""
        where = f"{symbol} {trade_date}"
        check(trades, where=where, allow_nonpositive=self.allow_nonpositive)
        if self.kinds.setdefault(symbol, trades.volume_kind) != trades.volume_kind:
            raise TapelineError(f"{where} has volumes of another type", code="internal")
        draft = self.folder / f"draft-{os.getpid()}.h5"
        with ThreadPoolExecutor(1) as pool:
            digests = pool.submit(trades.digests)  # hashing lets other threads run
            sha256 = day_file.write(
                draft,
                trades,
                symbol=symbol,
                trade_date=trade_date,
                currency=self.currency,
                tick_size=self.tick_size,
                codec=self.codec,
            )
        path = self.folder / f"{sha256}.h5"
        size = draft.stat().st_size
        places = day_file.places(draft)
        draft.replace(path)
        self.files[sha256] = PreparedFile(path, sha256, size)
        self.days.append(
            {
                "symbol": symbol,
                "trade_date": trade_date,
                "rows": len(trades),
                "columns": digests.result(),
                "artifact": {"sha256": sha256, "size": size} | ({"places": places} if places else {}),
            }
        )

    def finish(
        self,
        sessions: tuple[Segment, ...],
        report: dict[str, Any],
        *,
        eligibility: str | list[Any] = "none",
        aggregated: bool = False,
        synthetic: dict[str, Any] | None = None,
    ) -> PreparedTape:
        """Write the manifest; gives the whole tape."""
        symbols = [
            {
                "symbol": symbol,
                "volume_kind": kind,
                "currency": self.currency,
                "tick_size": self.tick_size,
                "calendar": self.calendar.name,
                "close_grace_s": self.calendar.close_grace_s,
                "extended": self.calendar.extended,
                "allow_nonpositive": self.allow_nonpositive,
            }
            for symbol, kind in self.kinds.items()
        ]
        made = manifest.make(
            symbols=symbols,
            days=self.days,
            sessions=sessions,
            report=report,
            eligibility=eligibility,
            aggregated=aggregated,
            synthetic=synthetic,
        )
        return PreparedTape(
            folder=self.folder,
            manifest=made,
            manifest_file=written(self.folder, made),
            files=list(self.files.values()),
        )


def written(folder: Path, made: dict[str, Any]) -> PreparedFile:
    """The file of a manifest, put into a folder."""
    data = manifest.canonical(made)
    path = folder / MANIFEST
    path.write_bytes(data)
    return PreparedFile(path, manifest.digest(data), len(data))
