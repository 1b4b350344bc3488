"""A catalogue from images and a table of their attributes: one garment per image, the whole image its crop."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from common.errors import UserError, nearest
from kfashion.catalogue import EXCLUDED, ITEMS, Catalogue
from kfashion.fields import FIELDS, MULTI
from kfashion.garments import Excluded, words
from kfashion.images import image_size


def read_table(
    root: Path, table: str, columns: Mapping[str, str | Sequence[str] | None], id_column: str, image_column: str,
    group_column: str | None, values: Mapping[str, Mapping[str, str | None]], separator: str | None,
) -> tuple[Catalogue, list[str | None] | None]:  # fmt: skip
    """The garments of a table, and the group of each if there is a column of them; see `kfashion.data.TableData`.

    Raises:
        UserError: if the table cannot be read, lacks a column, names a garment twice, or no image can be used.
    """
    path = root / table
    cells = _columns(path, columns, id_column, image_column, group_column)
    _check_unique(path, id_column, cells[id_column])
    items, excluded, owners = [], [], []
    for row, (name, image) in enumerate(zip(cells[id_column], cells[image_column])):
        try:
            size = _size(root, image)
        except Excluded as error:
            excluded.append({"label": f"{table}, {name}", "part": None, "reason": error.reason, "detail": error.detail})
            continue
        tokens = {each: _tokens(cells[each][row], values.get(each, {}), separator) for each in cells}
        items.append(
            {
                "item_id": name, "part": None, "bbox": (0, 0, *size), "crop": (0, 0, *size), "image": image,
                "look": None, "label": table, **{field: _field(field, columns[field], tokens) for field in FIELDS},
            }
        )  # fmt: skip
        owners.append(cells[group_column][row] if group_column is not None else None)
    if not items:
        raise UserError(f"{path}: none of {len(cells[id_column])} images can be used, the first is {image}.")
    catalogue = Catalogue(root, pa.Table.from_pylist(items, ITEMS), pa.Table.from_pylist(excluded, EXCLUDED))
    return catalogue, None if group_column is None else owners


def _columns(
    path: Path, columns: Mapping[str, str | Sequence[str] | None], *others: str | None
) -> dict[str, list[str | None]]:
    """The cells of the columns that are named, as text."""
    content = _open(path)
    fields = [[each] if isinstance(each, str) else each or [] for each in columns.values()]
    wanted = dict.fromkeys([each for names in fields for each in names] + [each for each in others if each is not None])
    for name in wanted:
        if name not in content.column_names:
            known = ", ".join(content.column_names)
            raise UserError(f"{path}: no column {name}.{nearest(name, content.column_names)} There are: {known}.")
    return {name: pc.cast(content[name], pa.string()).to_pylist() for name in wanted}


def _open(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        with pa.csv.open_csv(path) as reader:
            names = reader.schema.names
        options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
        return pa.csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: no table can be read ({str(error).splitlines()[0][:160]}).") from None


def _check_unique(path: Path, column: str, names: list[str | None]) -> None:
    seen: set[str | None] = set()
    for row, name in enumerate(names, 2):
        if not name or name in seen:
            problem = f"{name} is there twice" if name else "is empty"
            raise UserError(f"{path}, row {row}, column {column}: {problem}; every garment needs a name of its own.")
        seen.add(name)


def _size(root: Path, image: str | None) -> tuple[int, int]:
    if not image or not (root / image).is_file():
        raise Excluded("missing_image", detail=image or "")
    return image_size(root / image)


def _tokens(cell: str | None, renamed: Mapping[str, str | None], separator: str | None) -> list[str]:
    parts = [] if cell is None else [cell] if separator is None else cell.split(separator)
    return words([renamed.get(word, word) for word in words(parts)])


def _field(field: str, columns: str | Sequence[str] | None, tokens: Mapping[str, list[str]]) -> str | list[str] | None:
    if field in MULTI:
        return words([token for column in columns for token in tokens[column]])
    return next(iter(tokens[columns]), None) if columns is not None else None
