"""What features and labels are computed from: the abstract adapter, which is also what users implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


class BaseAdapter(ABC):
    """Bars, trades and maxima of one instrument. An `index` is the ordinal of a trade."""

    @abstractmethod
    def get_bars(
        self,
        index: int | None = None,
        count: int = 1,
        unit: str = "tick",
        size: int = 1,
        future: bool = False,
        prevent_lookahead_bias: bool = True,
    ) -> Any:
        """Bars before an index, oldest first, or from it on: an array (count, 8), which is cached.

        The columns are price_open, price_high, price_low, price_close, trade_count, vol_sum, vol_mean, vol_max.

        Parameters
        ----------
        index : int, optional
            The index at which to begin; None: the end of the tape.
        count : int, optional
            How many bars.
        unit : str, optional
            One of `tick`, `sec`, `min`, `hour`, `day`.
        size : int, optional
            How many units a bar has.
        future : bool, optional
            Look ahead, for labels, instead of back, for features.
        prevent_lookahead_bias : bool, optional
            Whether a bar that is still running at the index may hold only what is known there.

        Examples
        --------
        >>> adapter.get_bars(index=5000, count=3, unit="min").shape
        (3, 8)
        >>> bool(adapter.get_bars(5000)[0, 3] == adapter.get_date("2025-02-03").price[4999])
        True
        >>> bool(adapter.get_bars(5000, future=True)[0, 0] == adapter.get_date("2025-02-03").price[5000])
        True
        """

    @abstractmethod
    def get_bar_daterange(self, date: Any, unit: str = "tick", size: int = 1, future: bool = False) -> pd.DataFrame:
        """All bars of a trade date, which are cached: the columns of `get_bars`, and `timestamp`.

        Parameters
        ----------
        date : pd.Timestamp, or what can become one
            The trade date.
        unit, size, future
            As for `get_bars`.

        Examples
        --------
        >>> list(adapter.get_bar_daterange("2025-02-03", "hour"))
        ['price_open', 'price_high', 'price_low', 'price_close', 'trade_count', 'vol_sum', 'vol_mean', ..., 'timestamp']
        >>> len(adapter.get_bar_daterange(pd.Timestamp("2025-02-03"), "hour"))
        7
        """

    @abstractmethod
    def get_minute_bars(self, date: Any, size: int = 1, future: bool = False) -> pd.DataFrame:
        """The minute bars of a trade date: open, high, low, close, count, vol_sum, vol_mean, vol_max, timestamp.

        Parameters
        ----------
        date : pd.Timestamp, or what can become one
            The trade date.
        size : int, optional
            Minutes of a bar.
        future : bool, optional
            Look back (features) or forward (labels).

        Examples
        --------
        >>> bars = adapter.get_minute_bars("2025-02-03")  # 1-minute bars, past data
        >>> bars = adapter.get_minute_bars("2025-02-03", 5)  # 5-minute bars
        >>> bars = adapter.get_minute_bars("2025-02-03", future=True)  # For label computation
        """

    @abstractmethod
    def get_date(self, date: Any) -> pd.DataFrame:
        """All records of a trade date.

        Parameters
        ----------
        date : str, datetime or pd.Timestamp
            The trade date.

        Examples
        --------
        >>> df = adapter.get_date("2025-02-03")
        >>> df = adapter.get_date(pd.to_datetime("2025-02-03"))
        """

    @abstractmethod
    def get_max_values(self) -> NDArray[np.float64]:
        """The maxima of open, high, low, close, count, vol_sum, vol_sum / count, vol_max.

        Examples
        --------
        >>> adapter.get_max_values().shape
        (8,)
        """
