"""The five attribute fields of a garment, as columns of a table. Imports no torch: the label reader starts with it.

Source: kfashion specification, section 2.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

SINGLE = ("category", "silhouette")
MULTI = ("style", "material", "detail")
FIELDS = ("category", "style", "silhouette", "material", "detail")  # the order of concatenation in the encoder
TYPES = {field: pa.list_(pa.string()) if field in MULTI else pa.string() for field in FIELDS}

# what one garment says of itself: {"category": "레트로", "style": ["레트로"], "silhouette": None, …}
Record = Mapping[str, str | Sequence[str] | None]
Items = pa.Table | Sequence[Record]


def columns_of(items: Items) -> dict[str, pa.Array]:
    """Every field as one Arrow array, of strings or of lists of strings."""
    if isinstance(items, pa.Table):
        return {field: items[field].combine_chunks() for field in FIELDS}
    return {field: pa.array([item[field] for item in items], TYPES[field]) for field in FIELDS}


def flat_tokens(column: pa.Array) -> pa.Array:
    """The tokens of all garments in one array; a garment without a single field is null there."""
    return column.flatten() if pa.types.is_list(column.type) else column


def tokens_of(items: Items) -> dict[str, list[str]]:
    """The tokens that occur in every field, sorted by code point."""
    columns = columns_of(items)
    return {field: sorted(pc.unique(flat_tokens(columns[field]).drop_null()).to_pylist()) for field in FIELDS}
