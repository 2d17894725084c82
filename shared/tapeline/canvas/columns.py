"""What the columns of a label are: two classes, several classes, or a number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tapeline.errors import TapelineError

_TEXT = re.compile(r"(binary|regression|multiclass\(([0-9]{1,5})\))")


@dataclass(frozen=True)
class ColumnType:
    """The type of one label column; `classes` is k of a multiclass column and `None` otherwise.

    Examples
    --------
    >>> ColumnType.parse("multiclass(3)").units
    3
    """

    kind: Literal["binary", "multiclass", "regression"]
    classes: int | None = None

    @classmethod
    def parse(cls, text: str) -> ColumnType:
        """The type that `binary`, `regression` or `multiclass(k)` spells, with 2 <= k <= 65536."""
        found = _TEXT.fullmatch(text)
        if found is None or (found[2] and not 2 <= int(found[2]) <= 65_536):
            raise TapelineError(
                f"label column type {text!r} is not known",
                code="invalid",
                hint="binary, regression, or multiclass(k) with k from 2",
            )
        if found[2]:
            return cls("multiclass", int(found[2]))
        return cls("binary") if text == "binary" else cls("regression")

    @property
    def units(self) -> int:
        """How many values a network gives for this column."""
        return self.classes or 1

    @property
    def has_classes(self) -> bool:
        """Whether the column's values are classes that can be counted and weighted."""
        return self.kind != "regression"

    def __str__(self) -> str:
        return f"multiclass({self.classes})" if self.kind == "multiclass" else self.kind


@dataclass(frozen=True)
class LabelColumns:
    """The columns of one label in order, with their names where they have any.

    Examples
    --------
    >>> updown = LabelColumns.of("regression", "binary", "binary", "binary", "binary")
    >>> len(updown), str(updown[1])
    (5, 'binary')
    """

    columns: tuple[ColumnType, ...]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, *types: str, names: Sequence[str] = ()) -> LabelColumns:
        """The columns that the texts spell, as in `LabelColumns.of("regression", "multiclass(3)")`."""
        return cls(tuple(ColumnType.parse(text) for text in types), tuple(names))

    def to_json(self) -> list[str]:
        """The texts of the types, what `of` reads again."""
        return [str(column) for column in self.columns]

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[ColumnType]:
        return iter(self.columns)

    def __getitem__(self, index: int) -> ColumnType:
        return self.columns[index]


def class_weights(counts: Sequence[int], weighting: float) -> list[float]:
    """The weight of each class: (N / (K n_c)) ** weighting; 1 for a class without rows.

    Parameters
    ----------
    counts : sequence of int
        Rows of each class in the train part, shape (n_classes,).
    weighting : float
        `class_weighting` of the output, 0 (all weights 1) to 1 (balanced).

    Examples
    --------
    >>> class_weights([300, 100], 1.0)
    [0.6666666666666666, 2.0]
    """
    total = sum(counts)
    return [(total / (len(counts) * count)) ** weighting if count > 0 else 1.0 for count in counts]
