"""What a hosted model costs, by a table that the user can edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ds4bench.core import RequestResult
from ds4bench.errors import TargetError
from ds4bench.spec.base import SpecModel
from ds4bench.spec.document import to_plain
from ds4bench.spec.files import read
from ds4bench.spec.mistakes import first_mistake

_TABLE = Path(__file__).with_name("prices.yaml")
_MILLION = 1_000_000
Price = Annotated[float, Field(ge=0)]


class ModelPrice(SpecModel):
    """Price of a million tokens: prompt tokens from the cache, other prompt tokens, completion tokens."""

    cache_hit: Price
    cache_miss: Price
    output: Price

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """What so many tokens cost."""
        fresh = prompt_tokens - cached_tokens
        return (cached_tokens * self.cache_hit + fresh * self.cache_miss + completion_tokens * self.output) / _MILLION

    def of(self, result: RequestResult) -> float:
        """What an answered request cost by its own usage; 0 when it tells none."""
        if result.prompt_tokens is None:
            return 0.0
        return self.cost(result.prompt_tokens, result.completion_tokens or 0, result.cached_tokens or 0)


class PriceTable(SpecModel):
    """The file: one currency, prices by model id."""

    currency: str
    checked: str
    source: str
    models: dict[str, ModelPrice]


@dataclass(frozen=True)
class Priced:
    """The price of one model, and where it comes from."""

    price: ModelPrice
    currency: str
    checked: str


def price_of(model: str, file: Path | None = None) -> Priced:
    """The model's price. Raises TargetError for a bad file, and for a model that the table does not have."""
    path = file or _TABLE
    try:
        table = PriceTable.model_validate(
            to_plain(root := read(path, "price table", "currency, checked, source and models"))
        )
    except ValidationError as error:
        raise TargetError(first_mistake(error, root, path, PriceTable)) from None
    if model not in table.models:
        known = ", ".join(table.models)
        raise TargetError(
            f"{path} has no price for {model} (it has: {known}); copy it, add the model, give it with --prices"
        )
    return Priced(table.models[model], table.currency, table.checked)
