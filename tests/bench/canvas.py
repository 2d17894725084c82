"""Checking, drawing and building canvases: how long the largest and the most hostile of them take.

`python tests/bench/canvas.py [--rounds 7] [--keras]`. Every hostile document is given to `validate` in turn, some
rounds over; what counts is the slowest median. The limit of the page on canvases is 50 ms for any input of the
permitted size. A plain `json.loads` of the same bytes runs beside it, where the bytes can be parsed at all: it is the
floor. With `--keras` a canvas of 20 nodes is transpiled too, for which the page has 0.2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tapeline.canvas import EXAMPLES, LabelColumns, example, validate
from tapeline.canvas.drawing import lay_out, svg
from tapeline.canvas.limits import MAX_BYTES, MAX_NODES

LIMIT_MS = 50.0
BUILD_MS = 200.0
FEATURES = {"bars_20_1min": (20, 8), "log_return_1min": (1,), "trade_size_1min": (2,), "volume_ratio_1min": (1,)}
LABELS = {"updown_5min": LabelColumns.of("regression", "binary", "binary", "binary", "binary")}


def document(nodes: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"schema": "tapeline.canvas/1", "nodes": nodes, **more}).encode()


def wide(count: int, **fields: Any) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = [{"id": "n0", "kind": "input", "features": ["log_return_1min"]}]
    return nodes + [{"id": f"n{i}", "kind": "dense", "inputs": ["n0"], "units": 1, **fields} for i in range(1, count)]


def chain(count: int, **fields: Any) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = [{"id": "n0", "kind": "input", "features": ["log_return_1min"]}]
    nodes += [{"id": f"n{i}", "kind": "dense", "inputs": [f"n{i - 1}"], "units": 1, **fields} for i in range(1, count)]
    return nodes


def hostile() -> dict[str, bytes]:
    """Documents that cost the most of each kind, all within the size that is permitted, or just beyond it."""
    ring = chain(MAX_NODES)
    ring[0] = {"id": "n0", "kind": "flatten", "inputs": [f"n{MAX_NODES - 1}"]}
    joined = chain(MAX_NODES)
    for i, node in enumerate(joined[4:], 4):
        node["inputs"] = [f"n{i - k}" for k in range(1, 5)]
    ended = [
        *chain(MAX_NODES - 1),
        {"id": "o", "kind": "output", "inputs": [f"n{MAX_NODES - 2}"], "feature": "updown_5min"},
    ]
    names = [{"id": f"Node {i}", "kind": "dens", "unts": 3, "inputs": ["nothing"]} for i in range(MAX_NODES)]
    long = "\\\\u00e9" * (MAX_BYTES // 6 - 40)
    return {
        "depth of 100,000": b'{"nodes":' + b"[" * 100_000,
        "depth of 250,000 in objects": b'{"a":' * 80_000,
        "a million values": b"[" + b"0," * (MAX_BYTES // 2 - 4) + b"0]",
        "one long text of escapes": b'{"schema":"tapeline.canvas/1","notes":"' + long.encode() + b'","nodes":[]}',
        "quotes and backslashes": b'{"a":"' + b'\\\\\\"' * (MAX_BYTES // 4 - 8) + b'"}',
        "512 faulty nodes": document(names),
        "512 nodes of an unknown kind": document([{"id": f"n{i}", "kind": "lambda"} for i in range(MAX_NODES)]),
        "513 nodes": document(wide(MAX_NODES + 1)),
        "a ring of 512 nodes": document(ring),
        "2,000 edges": document(joined),
        "a chain of 512 nodes": document(ended),
        "a bomb of parameters": document(chain(MAX_NODES, units=65_536)),
        "64 x 64 layers of 65,536": document(chain(MAX_NODES, units=[65_536] * 64)),
        "a number of 4,000 digits": document(chain(3)).replace(b'"units": 1', b'"units": ' + b"9" * 4000),
        "16,000 keys of ui": document(chain(3), ui={f"k{i}": i for i in range(16_000)}),
        "31,000 features": document(
            [{"id": f"n{i}", "kind": "input", "features": [f"{i}é{j}" for j in range(64)]} for i in range(485)]
        ),
        "2,000 misspelt features": document(
            [{"id": f"n{i}", "kind": "input", "features": [f"log_retrn_{i}é{j}" for j in range(8)]} for i in range(250)]
        ),
        "511 ids alike, and one unknown": document(
            [{"id": f"{'a' * 55}{i}", "kind": "input", "features": ["log_return_1min"]} for i in range(511)]
            + [{"id": "z", "kind": "dense", "units": 1, "inputs": ["a" * 60]}]
        ),
        "14,000 unknown fields": document(wide(240, **{f"x{j}": 1 for j in range(57)})),
        "14,000 units that are none": document(wide(240) + [{"id": f"m{i}", "kind": "dense", "inputs": ["n0"],
                                                            "units": ["x"] * 60} for i in range(230)]),
        "511 misspelt labels": document(wide(1) + [{"id": f"o{i}", "kind": "output", "inputs": ["n0"],
                                                   "feature": "updown_5mn"} for i in range(511)]),
        "16,000 numbers to train with": document(chain(3), training={"a": [0.1234567890123456] * 16_000}),
        "15,000 texts with half a character": document(chain(3), training={f"k{i}": ["\ud800"] for i in range(15_000)}),
    }  # fmt: skip


def taken_ms(work: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) / 1e6


def parsed(text: bytes) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return


def median(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):8.2f}"


def twenty() -> bytes:
    """A canvas of 20 nodes of several kinds."""
    nodes: list[dict[str, Any]] = [
        {"id": "w", "kind": "input", "features": ["bars_20_1min"]},
        {"id": "x", "kind": "input", "features": ["log_return_1min", "volume_ratio_1min"]},
        {"id": "n", "kind": "window_norm", "inputs": ["w"]},
        {"id": "c", "kind": "conv1d", "inputs": ["n"], "filters": 16},
        {"id": "l", "kind": "lstm", "inputs": ["c"], "units": 16},
        {"id": "f", "kind": "flatten", "inputs": ["n"]},
        {"id": "d0", "kind": "dense", "inputs": ["l", "f", "x"], "units": [64, 32], "dropout": 0.1},
    ]
    nodes += [{"id": f"d{i}", "kind": "dense", "inputs": [f"d{i - 1}"], "units": 16} for i in range(1, 12)]
    nodes += [{"id": f"o{i}", "kind": "output", "inputs": ["d11"], "feature": "updown_5min", "label_index": i}
              for i in range(2)]  # fmt: skip
    return document(nodes)


def transpiled_ms(rounds: int) -> float:
    """The median of some builds of a model of 20 nodes, with Keras imported and warm."""
    from tapeline.canvas.transpile import transpile

    build = partial(transpile, twenty(), feature_shapes=FEATURES, labels=LABELS, seed=1)
    found = []
    for _ in range(rounds + 1):
        found.append(taken_ms(build))
    print(
        f"\ntranspile of 20 nodes: {median(found[1:])} ms, the first {found[0]:.0f} ms; the limit is {BUILD_MS:.0f} ms"
    )
    return statistics.median(found[1:])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--keras", action="store_true", help="time transpiling too")
    given_arguments = arguments.parse_args()
    rounds = given_arguments.rounds
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in EXAMPLES:
        validate(example(name), feature_shapes=FEATURES, labels=LABELS)  # modules and models are loaded by this

    print(f"\n{'hostile canvas':32} {'bytes':>9} {'validate':>11} {'json.loads':>11}   answer")
    given = hostile()
    checks: dict[str, list[float]] = {name: [] for name in given}
    floors: dict[str, list[float]] = {name: [] for name in given}
    for _ in range(rounds):
        for name, text in given.items():
            checks[name].append(taken_ms(lambda t=text: validate(t, feature_shapes=FEATURES, labels=LABELS)))
            floors[name].append(taken_ms(lambda t=text: parsed(t)))
    for name, text in given.items():
        found = validate(text, feature_shapes=FEATURES, labels=LABELS)
        answer = ", ".join(dict.fromkeys(fault.code for fault in found.errors[:100])) or "valid"
        print(f"{name:32} {len(text):9,} {median(checks[name])} ms {median(floors[name])} ms   {answer[:48]}")
    worst = max(checks, key=lambda name: statistics.median(checks[name]))
    slowest = statistics.median(checks[worst])
    print(f"slowest: {worst}, {slowest:.1f} ms; the limit is {LIMIT_MS:.0f} ms")

    print(f"\n{'good canvas':32} {'nodes':>9} {'validate':>11} {'draw SVG':>11}")
    good = {name: example(name) for name in EXAMPLES} | {"a chain of 512 nodes": given["a chain of 512 nodes"]}
    for name, content in good.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            times[0].append(taken_ms(lambda c=content: validate(c)))
            canvas = validate(content).require()
            times[1].append(taken_ms(lambda c=canvas: svg(lay_out(c))))
        print(f"{name:32} {len(canvas.nodes):9,} {median(times[0])} ms {median(times[1])} ms")
    built = transpiled_ms(rounds) if given_arguments.keras else 0.0
    return 0 if slowest <= LIMIT_MS and built <= BUILD_MS else 1


if __name__ == "__main__":
    sys.exit(main())
