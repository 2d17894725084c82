"""Dates and times as users write them, for the exchange's calendar; the one place here that uses pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError

if TYPE_CHECKING:
    import pandas as pd

    from tapeline.tape.view import OpenTape


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise TapelineError(
            "dates and frames need the package pandas", code="dependency_missing", hint="pip install 'tapeline[assets]'"
        ) from None
    return pandas


def _moment(value: Any) -> Any:
    pd = _pandas()
    try:
        moment = pd.Timestamp(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise TapelineError(
            f"{value!r} is not a date", code="invalid_date", hint="write it as 2025-02-03, or give a pandas.Timestamp"
        ) from error
    if moment is pd.NaT:
        raise TapelineError("the date is empty (NaT)", code="invalid_date", hint="write it as 2025-02-03")
    return moment


def as_trade_date(value: Any, zone: ZoneInfo) -> str:
    """A date of the exchange as `YYYY-MM-DD`; a time with a zone is taken to the exchange's first.

    Raises
    ------
    TapelineError
        `invalid_date` for what is none, `dependency_missing` without pandas.
    """
    if value is None:
        raise TapelineError("the date is None", code="invalid_date", hint="write it as 2025-02-03")
    moment = _moment(value)
    if moment.tzinfo is not None:
        moment = moment.tz_convert(str(zone))
    return str(moment.date().isoformat())


def as_until(value: Any, zone: ZoneInfo, tape: OpenTape) -> int:
    """A bound in ns since 1970: a whole number of ns, a time, or a trade date, which means the end of it."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    moment = _moment(value)
    if moment.tzinfo is None and moment == moment.normalize():
        dates = [day for day in tape.trade_dates if day <= moment.date().isoformat()]
        return int(tape.segments(dates[-1])[-1, 1]) if dates else 0
    if moment.tzinfo is None:
        moment = moment.tz_localize(str(zone))
    return int(moment.as_unit("ns").value)


def frames(columns: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """A frame of columns; `timestamp` becomes UTC times."""
    pd = _pandas()
    given = {
        name: pd.DatetimeIndex(column.astype("datetime64[ns]"), tz="UTC") if name == "timestamp" else column
        for name, column in columns.items()
    }
    return pd.DataFrame(given)  # type: ignore[no-any-return]
