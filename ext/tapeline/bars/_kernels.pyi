import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.int32] | NDArray[np.int64] | NDArray[np.float64]

def time_bars(
    ts: NDArray[np.int64],
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    segments: NDArray[np.int64],
    edges: NDArray[np.int64],
    width_ns: int,
    fill: bool,
    closes: NDArray[np.float64],
    out: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> int: ...
def tick_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    size: int,
    lead: int,
    carry: NDArray[np.float64],
    out: NDArray[np.float64],
    edges: NDArray[np.int64],
    fault: NDArray[np.int64],
) -> int: ...
def threshold_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    limit: float,
    dollar: bool,
    first: int,
    until: int,
    carry: NDArray[np.float64],
    out: NDArray[np.float64],
    edges: NDArray[np.int64],
    found: NDArray[np.int64],
    fault: NDArray[np.int64],
) -> int: ...
def carry_forward(out: NDArray[np.float64], carry: float) -> None: ...
def gather(
    grid: NDArray[np.float64],
    past: NDArray[np.int64],
    count: int,
    norm: int,
    scale: NDArray[np.float64],
    out: NDArray[np.float32],
    fault: NDArray[np.int64],
) -> int: ...
def ranks(ordered: NDArray[np.int64], values: NDArray[np.int64], right: bool, out: NDArray[np.int64]) -> int: ...
def lookback(
    grid: NDArray[np.float64],
    first: NDArray[np.int64],
    count: int,
    out: NDArray[np.float64] | NDArray[np.float32],
    fault: NDArray[np.int64],
) -> int: ...
def running_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    edges: NDArray[np.int64],
    carry: NDArray[np.float64],
    fill: bool,
    out: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> int: ...
def threshold_ahead(
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    spans: NDArray[np.int64],
    limit: float,
    dollar: bool,
    edges: NDArray[np.int64],
) -> int: ...
def blocks(
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    range_: NDArray[np.float64],
    whole: NDArray[np.int64],
) -> int: ...
def anchored(
    clock: NDArray[np.int64],
    coarse: NDArray[np.int64],
    price: NDArray[np.float64],
    volume: Volume,
    flags: NDArray[np.uint8] | None,
    before: NDArray[np.int64] | None,
    range_: NDArray[np.float64],
    whole: NDArray[np.int64],
    at: NDArray[np.int64],
    when: NDArray[np.int64],
    slot: NDArray[np.int64],
    width: int,
    total: int,
    future: bool,
    fill: bool,
    edge: NDArray[np.int64],
    out: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> int: ...
def read_bandwidth(ts: NDArray[np.int64], price: NDArray[np.float64], volume: Volume) -> float: ...
def has_v3() -> bool: ...
def plain(flags: NDArray[np.uint8]) -> bool: ...
