"""What a build has to do: its shards, each one symbol in one session, and everything that they share.

A plan is a function of the resolved spec and its tapes. Every process that works at a build makes it for itself,
and comes to the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TRAIN
from tapeline.assets.asset.instances import instances_of
from tapeline.assets.causality import cut_places
from tapeline.assets.component import Instance
from tapeline.assets.components import Registry
from tapeline.assets.days import Needs, Pieces, SymbolDays, needs_of
from tapeline.assets.estimate import check as must_fit
from tapeline.assets.split import session_opens, session_parts
from tapeline.assets.view import Market, Unit
from tapeline.canvas.digest import canonical_json
from tapeline.tape.view import OpenTape

FORM = 2
"""Counts what shards hold and how: shards of another form are computed again."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One symbol in one session.

    Attributes
    ----------
    number : of the session among those of the symbol
    stop : one past the last session that labels may read
    cuts : where the experiments cut, as shares of the samples
    key : digest of all that the shard depends on; the cut into parts is not of it
    """

    symbol: str
    date: str
    number: int
    stop: int
    cuts: tuple[float, ...]
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A build, spread out.

    Attributes
    ----------
    days : trade dates of the build, with their numbers
    opens : int64 ns, shape (sessions,), when each of them opens
    of_session : uint8, shape (sessions,), the part of each
    digest : of what shards have in common
    train : by symbol the market of the train sessions, which features are fitted on
    """

    spec: Mapping[str, Any]
    features: tuple[Instance, ...]
    labels: tuple[Instance, ...]
    symbols: Mapping[str, SymbolDays]
    days: Mapping[str, int]
    opens: NDArray[np.int64]
    of_session: NDArray[np.uint8]
    needs: Needs
    shards: tuple[Shard, ...]
    digest: str
    train: Mapping[str, Market]

    @property
    def ahead(self) -> bool:
        """Whether features may read the future."""
        return bool(self.spec.get("allow_lookahead"))

    @property
    def indexed(self) -> tuple[Instance, ...]:
        """The features of which files hold places in grids instead of windows of bars."""
        if self.spec["layout"] != "indexed":
            return ()
        return tuple(each for each in self.features if each.component.windows is not None)

    @property
    def grids(self) -> tuple[tuple[Unit, int], ...]:
        """The bars that indexed features are windows of, each once."""
        return tuple(dict.fromkeys((each.params.unit, each.params.size) for each in self.indexed))

    def stretches(self, most: int, most_bytes: int) -> list[list[Shard]]:
        """The shards in order, in runs of so many, or fewer whose trades are some bytes together."""
        made: list[list[Shard]] = []
        held = 0
        for shard in self.shards:
            size = self.symbols[shard.symbol].size(shard.number)
            if not made or len(made[-1]) == most or held + size > most_bytes:
                made.append([])
                held = 0
            made[-1].append(shard)
            held += size
        return made

    def expect(self, shards: Iterable[Shard]) -> None:
        """Read the days that some shards are about to need."""
        wanted: dict[OpenTape, dict[tuple[str, str], None]] = {}
        for shard in shards:
            days = self.symbols[shard.symbol]
            of_tape = wanted.setdefault(days.tape, {})
            of_tape |= {(shard.symbol, date): None for date in days.dates[shard.number : shard.stop]}
        for tape, read in wanted.items():
            tape.expect(read)

    @property
    def bar(self) -> tuple[Unit, int]:
        """The bars in which samples are taken, and gaps counted."""
        sampling = self.spec["sampling"]
        return ("min", 1) if sampling["kind"] == "at_times" else (sampling["unit"], sampling["size"])


def make_plan(spec: Mapping[str, Any], tapes: Mapping[str, OpenTape], components: Registry) -> Plan:
    """The plan of a resolved spec on its tapes, by id.

    Raises
    ------
    TapelineError
        `unknown_component`, `too_few_sessions`, `too_large`.
    """
    features = instances_of(spec["features"], components)
    labels = instances_of(spec["labels"], components)
    must_fit(spec, tapes, features, labels)
    first, last = spec["range"]["from"], spec["range"]["to"]
    pieces = Pieces()
    symbols = {
        symbol: SymbolDays(tapes[tape], symbol, pieces)
        for symbol, tape in sorted((symbol, item["tape"]) for item in spec["tapes"] for symbol in item["symbols"])
    }
    within = {name: [date for date in each.dates if first <= date <= last] for name, each in symbols.items()}
    days = {date: number for number, date in enumerate(sorted({date for dates in within.values() for date in dates}))}
    of_session = session_parts(list(days), dict(spec["split"]))
    train = _train(symbols, within, days, of_session)
    features = [each.fit(train) for each in features]
    digest = hashlib.sha256(canonical_json(_shared(spec, features))).hexdigest()
    shards: list[Shard] = []
    for name, each in symbols.items():
        shards += _shards(name, each, within[name], labels, digest, len(symbols))
    shards.sort(key=lambda shard: (shard.date, shard.symbol))
    return Plan(
        spec=spec,
        features=tuple(features),
        labels=tuple(labels),
        symbols=symbols,
        days=days,
        opens=session_opens(symbols.values(), days),
        of_session=of_session,
        needs=needs_of([*features, *labels]),
        shards=tuple(shards),
        digest=digest,
        train=train,
    )


def _shared(spec: Mapping[str, Any], features: Iterable[Instance]) -> dict[str, Any]:
    """What every shard depends on: neither the name, nor the tapes, nor the split, unless a feature is fitted."""
    kept = {key: spec[key] for key in ("calendar", "view", "sampling", "features", "labels", "missing", "layout")}
    fitted = {
        each.name: {symbol: values.tobytes().hex() for symbol, values in sorted(each.fitted.items())}
        for each in features
        if each.fitted
    }
    return kept | {"form": FORM, "fitted": fitted, "ahead": bool(spec.get("allow_lookahead"))}


def _shards(
    name: str, days: SymbolDays, within: list[str], labels: list[Instance], digest: str, n_symbols: int
) -> list[Shard]:
    if not within:
        return []
    start, last = days.dates.index(within[0]), days.dates.index(within[-1])
    cuts: dict[int, list[float]] = {}
    for session, share in cut_places(len(within), n_symbols, digest, name):
        cuts.setdefault(session, []).append(share)
    columns = {day["trade_date"]: day["columns"] for day in days.tape.manifest["days"] if day["symbol"] == name}
    # One digest after another, each over all that came before: a tape that is extended keeps those that it had.
    so_far, chain = "", []
    for number, date in enumerate(days.dates[: last + 1]):
        segments = days.segments[days.session == number].tolist()
        so_far = hashlib.sha256(canonical_json([so_far, date, columns[date], segments])).hexdigest()
        chain.append(so_far)
    made = []
    for i, date in enumerate(within):
        number = start + i
        stop = days.ahead(number, last, labels)
        own = tuple(cuts.get(i, ()))
        key = hashlib.sha256(canonical_json([digest, name, date, chain[stop - 1], list(own)])).hexdigest()
        made.append(Shard(name, date, number, stop, own, key))
    return made


def _train(
    symbols: Mapping[str, SymbolDays],
    within: Mapping[str, list[str]],
    days: Mapping[str, int],
    of_session: NDArray[np.uint8],
) -> dict[str, Market]:
    """By symbol the market with the train sessions and nothing else: what features may be fitted on."""
    found = {}
    for name, each in symbols.items():
        numbers = [each.dates.index(date) for date in within[name] if of_session[days[date]] == TRAIN]
        first, stop = (numbers[0], numbers[-1] + 1) if numbers else (0, 0)
        found[name] = each.only(first, stop)
    return found
