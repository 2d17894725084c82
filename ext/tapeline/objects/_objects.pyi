from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")

def made(
    kind: type[T], slots: Mapping[Any, Any], names: Sequence[str], columns: Sequence[Any], count: int
) -> list[T]: ...
def moments(times: Any) -> list[datetime]: ...
def texts(head: str, times: Any) -> list[str]: ...
