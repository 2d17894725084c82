"""One shard of a build: the samples of one symbol in one session, and what the experiments on them found.

Its bytes are a function of its key: whoever computes it, and when, they are the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.causality import Found, Subject, cut_rows, examine
from tapeline.assets.component import Instance
from tapeline.assets.grids import Grid, Unit
from tapeline.assets.plan import Plan, Shard
from tapeline.assets.samples import Samples, computed, make, nothing
from tapeline.assets.sampling import Times, sample_times
from tapeline.assets.soundness import Traded, gaps_of, traded
from tapeline.assets.stack import Stack, in_stretches
from tapeline.assets.view import Market, View
from tapeline.canvas.digest import canonical_json
from tapeline.digests import sha256_of_pieces
from tapeline.errors import TapelineError

MAGIC = b"TLSHARD1"
ALIGNED = 64


@dataclass(frozen=True, slots=True, eq=False)
class ShardData:
    """What a shard gives.

    Attributes
    ----------
    n_times : how many samples there were before any was left out
    first : how many of them, at the session's beginning, have not enough history
    grids : the session's own bars, by unit and size, that indexed features are windows of
    """

    samples: Samples
    n_times: int
    first: int
    grids: dict[tuple[Unit, int], Grid]
    found: Found
    gaps: dict[str, Any]
    traded: list[Traded]


def compute(plan: Plan, shard: Shard) -> ShardData:
    """The samples of a shard, with the experiments that the certificate rests on; see `compute_each`."""
    return compute_each(plan, [shard])[0]


def compute_each(plan: Plan, shards: Sequence[Shard]) -> list[ShardData]:
    """What some shards give, each by itself and computed together: formulas run over all of their bars at once.

    Raises
    ------
    TapelineError
        `lookahead_refused`, `tape_corrupt`, and what features refuse.
    """
    found = [_begun(plan, shard) for shard in shards]
    width = sum(int(np.prod(each.columns.shape)) for each in (*plan.features, *plan.labels))
    for together in in_stretches(
        [i for i, each in enumerate(found) if len(each.times[0])],
        lambda i, j: found[i].market.symbol == found[j].market.symbol,
        lambda i: len(found[i].times[0]) * width,
    ):
        own = [found[i] for i in together]
        stack = Stack.of([View(each.market, each.times[0]) for each in own])
        known = computed(stack, plan.features, plan.labels, ahead=plan.ahead)
        session = np.concatenate([each.times[1] for each in own])
        samples = make(stack, plan.features, plan.labels, session, plan.spec["missing"], known)
        apart = {name: stack.apart(values) for name, values in known.items()}
        subjects = [
            Subject(
                each.market,
                each.times[0],
                cut_rows(len(each.times[0]), each.shard.cuts),
                {name: values[k] for name, values in apart.items()},
                each.sampled if plan.spec["sampling"]["kind"] == "cusum" else None,
                plan.ahead,
            )
            for k, each in enumerate(own)
        ]
        proofs = examine(subjects, plan.features, plan.labels, plan.digest)
        for each, made, proof in zip(own, samples, proofs, strict=True):
            each.samples = replace(made, dropped=Counter(each.early) + Counter(made.dropped))
            each.proof = proof
    return [each.finished(plan) for each in found]


@dataclass(slots=True, eq=False)
class _Begun:
    """A shard that is being computed.

    Attributes
    ----------
    n_times, first : as in `ShardData`
    times : sample times from the first with history on, and the session of each
    early : how many samples are left out before it, by the feature or label that says so
    """

    shard: Shard
    market: Market
    n_times: int
    first: int
    times: Times
    early: dict[str, int]
    times_of: Callable[[Market], Times]
    samples: Samples | None = None
    proof: Found | None = None

    def sampled(self, other: Market) -> NDArray[np.int64]:
        """The sample times of another market with the same sessions."""
        return self.times_of(other)[0][self.first :]

    def finished(self, plan: Plan) -> ShardData:
        """What the shard gives."""
        shard, own = self.shard, {self.shard.date: plan.days[self.shard.date]}
        return ShardData(
            self.samples or replace(nothing(plan.features, plan.labels), dropped=self.early),
            self.n_times,
            self.first,
            {key: plan.symbols[shard.symbol].piece(shard.number, *key) for key in plan.grids},
            self.proof or Found(shard.symbol),
            gaps_of(self.market, own, plan.bar),
            traded(self.market, own),
        )


def _begun(plan: Plan, shard: Shard) -> _Begun:
    """The market of a shard, and the times of its samples."""
    market = plan.symbols[shard.symbol].market(shard.number, shard.stop, plan.needs)
    own = {shard.date: plan.days[shard.date]}

    def times_of(other: Market) -> Times:
        return sample_times(other, plan.spec["sampling"], own, plan.spec["calendar"])

    whole = times_of(market)
    first, early = _first_with_history(market, [*plan.features, *plan.labels], whole[0])
    return _Begun(shard, market, len(whole[0]), first, (whole[0][first:], whole[1][first:]), early, times_of)


def _first_with_history(
    market: Market, instances: Sequence[Instance], t0: NDArray[np.int64]
) -> tuple[int, dict[str, int]]:
    """The first row for which everything has its history, and how many rows each one leaves out before it.

    What is left out is never computed: a window of 10,000 bars costs nothing on a tape that has fewer.
    """
    whole, first, early = View(market, t0), 0, dict[str, int]()
    for each in instances:
        past = whole.past(each.params.unit, each.params.size)
        stop = int(np.searchsorted(past, each.warmup_bars, "left"))
        if stop > first:
            early[each.name] = stop - first
            first = stop
    return first, early


def to_bytes(data: ShardData) -> bytes:
    """A shard as it is kept: a digest, a header in JSON, and the columns."""
    samples = data.samples
    columns: dict[str, NDArray[Any]] = {
        "t0": samples.t0,
        "session": samples.session,
        "t1": samples.t1,
        "weight": samples.weight,
        **{f"x/{name}": values for name, values in samples.features.items()},
        **{f"y/{name}": values for name, values in samples.labels.items()},
    }
    for (unit, size), grid in data.grids.items():
        of_grid = {"bars": grid.bars, "end": grid.end, "segment": grid.segment, "session": grid.session}
        columns |= {f"g/{unit}/{size}/{name}": values for name, values in of_grid.items()}
    listed: list[dict[str, Any]] = []
    blocks: list[bytes | memoryview] = []
    place = 0
    for name, values in columns.items():
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        listed.append({"name": name, "dtype": little.dtype.str, "shape": list(little.shape), "at": place})
        blocks += [little.reshape(-1).view(np.uint8).data, bytes(-little.nbytes % ALIGNED)]
        place += little.nbytes + len(blocks[-1])
    header = canonical_json(
        {
            "columns": listed,
            "dropped": dict(samples.dropped),
            "filled": dict(samples.filled),
            "n_times": data.n_times,
            "first": data.first,
            "found": data.found.to_json(),
            "gaps": data.gaps,
            "traded": [asdict(each) for each in data.traded],
        }
    )
    header += b" " * (-(len(MAGIC) + 32 + 8 + len(header)) % ALIGNED)
    rest = len(header).to_bytes(8, "little") + header + b"".join(blocks)
    return MAGIC + sha256_of_pieces(rest) + rest


def from_bytes(content: bytes, name: str) -> ShardData:
    """A shard out of its bytes.

    Raises
    ------
    TapelineError
        `corrupt` when they are not what was written.
    """
    start = len(MAGIC) + 32
    if content[: len(MAGIC)] != MAGIC or sha256_of_pieces(memoryview(content)[start:]) != content[len(MAGIC) : start]:
        raise TapelineError(f"shard {name} is damaged", code="corrupt", hint="build again: it is computed anew")
    size = int.from_bytes(content[start : start + 8], "little")
    header = json.loads(content[start + 8 : start + 8 + size])
    body = memoryview(content)[start + 8 + size :]
    columns: dict[str, NDArray[Any]] = {}
    for each in header["columns"]:
        dtype, shape = np.dtype(each["dtype"]), tuple(each["shape"])
        count = int(np.prod(shape))
        columns[each["name"]] = np.frombuffer(body, dtype, count, each["at"]).reshape(shape)
    samples = Samples(
        columns["t0"],
        columns["session"],
        {name[2:]: values for name, values in columns.items() if name.startswith("x/")},
        {name[2:]: values for name, values in columns.items() if name.startswith("y/")},
        columns["t1"],
        columns["weight"],
        header["dropped"],
        header["filled"],
    )
    keys = dict.fromkeys(tuple(name.split("/")[1:3]) for name in columns if name.startswith("g/"))
    grids: dict[tuple[Unit, int], Grid] = {}
    for unit, wide in keys:
        bars, end, segment, session = (
            columns[f"g/{unit}/{wide}/{name}"] for name in ("bars", "end", "segment", "session")
        )
        grids[cast(Unit, unit), int(wide)] = Grid(cast(Unit, unit), int(wide), bars, end, segment, session)
    return ShardData(
        samples,
        header["n_times"],
        header["first"],
        grids,
        Found(**header["found"]),
        header["gaps"],
        [Traded(**each) for each in header["traded"]],
    )
