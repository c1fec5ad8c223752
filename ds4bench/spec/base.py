"""What the models of a gate file share: strict, frozen, nothing unknown accepted; the axes that span the cells."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ds4bench.core import Cell

Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveInts = Annotated[list[PositiveInt], Field(min_length=1)]
"""An axis of numbers."""


class SpecModel(BaseModel):
    """Strict types: ``max_tokens: "128"`` and ``repeats: true`` are mistakes, not conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MatrixSpec(SpecModel):
    """The axes of a workload's cells; every list field is one. A subclass says in ``ID`` how a cell is called.

    An axis named ``concurrency`` sets how many requests of a cell are in flight together (1 without it).
    """

    ID: ClassVar[str] = ""

    @field_validator("*")
    @classmethod
    def _no_value_twice(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list):
            twice = sorted({v for v in value if value.count(v) > 1})
            if twice:
                raise ValueError(f"{', '.join(map(str, twice))} stands in the list twice; cells must be different")
        return value

    def cells(self) -> list[Cell]:
        """Every combination of the axes, the last one fastest, in the order they are measured."""
        axes = {name: getattr(self, name) for name in type(self).model_fields}
        axes = {name: values for name, values in axes.items() if isinstance(values, list)}
        points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        return [
            Cell(id=self.ID.format(**point), concurrency=int(point.get("concurrency", 1)), params=point)
            for point in points
        ]

    def items(self) -> int | None:
        """Number of scored items of one repeat, where a cell is a batch of items; else None."""
        return None


class ItemBatches(MatrixSpec):
    """Cells are batches of items in a fixed order, so that a run can stop between two of them once it is decided."""

    ID: ClassVar[str] = "items{first}-{last}"

    limit: PositiveInt
    batch: PositiveInt
    concurrency: PositiveInt

    def cells(self) -> list[Cell]:
        """``items0-49``, ``items50-99``, ...; ``params`` has ``first`` and ``last`` (inclusive)."""
        ranges = [(first, min(first + self.batch, self.limit) - 1) for first in range(0, self.limit, self.batch)]
        return [
            Cell(
                id=self.ID.format(first=first, last=last),
                concurrency=min(self.concurrency, last - first + 1),
                params={"first": first, "last": last},
            )
            for first, last in ranges
        ]

    def items(self) -> int | None:
        """See ``MatrixSpec``."""
        return self.limit


class OptionsSpec(SpecModel):
    """What only one workload wants to know. All of it is part of the measurement."""
