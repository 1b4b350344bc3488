"""Price, flow and sector tables as users save them, read into one set of column names and types.

Known are the frames of FinanceDataReader, pykrx and yfinance (lasps specification, section 14), as CSV or Parquet:
one file with a code column, or one file per issue (session) with its code (day) in the file's name.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError, nearest
from common.files import locate_data
from lasps.data.sectors import LASPS13, LASPS20, LASPS20_TO_13, SCHEMES, SectorScheme

# what each field is called in files, preferred names first; in lower case, with _ for blanks
NAMES = {
    "code": ("code", "티커", "종목코드", "단축코드", "stock_code", "ticker", "symbol"),
    "date": ("date", "날짜", "일자"),
    "open": ("open", "시가"),
    "high": ("high", "고가"),
    "low": ("low", "저가"),
    "close": ("close", "종가"),
    "adj_close": ("adj_close", "수정종가"),
    "volume": ("volume", "거래량"),
    "foreign": ("foreign_net", "foreign", "외국인합계", "외국인"),
    "institution": ("inst_net", "institution_net", "inst", "institution", "기관합계", "기관"),
    "valid_from": ("valid_from",),
    "valid_to": ("valid_to",),
} | {
    scheme.version: ("sector_id", "sector", scheme.version, "업종명", "업종", "sector_name", "sector_ko", "sector_en")
    for scheme in SCHEMES.values()
}  # fmt: skip
TEXT = {"code", "date", "valid_from", "valid_to"} | {scheme.version for scheme in SCHEMES.values()}
PRICES = ["open", "high", "low", "close"]
FORMATS = (".csv", ".csv.gz", ".parquet")
NAMELESS = "Unnamed: 0"  # what pandas calls the first column of a CSV whose index had no name

CODE_IN_NAME = re.compile(r"(?<![0-9A-Za-z])Q?(?=[A-Z]*[0-9])[0-9A-Z]{6}(?![0-9A-Za-z])")
DAY_IN_NAME = re.compile(r"(?<!\d)\d{4}-?\d{2}-?\d{2}(?!\d)")
SECTOR_ID = r"-?(0|[1-9]\d*)(\.0*)?"


@dataclass
class _Table:
    """The fields found in one file.

    Attributes:
        frame: the fields under our names, values as they were read.
        columns: what the file calls each field.
        header: all columns of the file.
    """

    file: Path
    frame: pd.DataFrame
    columns: dict[str, str]
    header: list[str]

    def refuse(self, field: str, wrong: pd.Series, reason: str) -> None:
        """Raise a UserError on the first row for which `wrong` holds."""
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise UserError(
                f"{self.file}, column {self.columns[field]}, data row {row + 1}: {self.frame[field].iloc[row]} is "
                f"{reason} ({wrong.sum()} such rows)."
            )

    def lacks(self, *fields: str) -> str:
        """The message for a file that has none of the fields."""
        names = ", ".join(name for field in fields for name in NAMES[field])
        there = ", ".join(self.header)
        return f"{self.file}: no column for {' or '.join(fields)} (known names: {names}); it has {there}."

    def codes(self) -> pd.Series:
        """Stock codes as text, without Yahoo's exchange suffix."""
        column = self.frame["code"]
        lost = "a stock code without leading zeros (six characters needed); read and save codes as text, as in 005930"
        self.refuse("code", column.isna(), "no stock code")
        if pd.api.types.is_numeric_dtype(column):
            self.refuse("code", column.notna(), lost)
        codes = column.astype("str").str.strip().str.replace(r"\.K[SQ]$", "", regex=True)
        self.refuse("code", codes.str.fullmatch(r"\d{1,5}"), lost)
        return codes

    def days(self, field: str) -> pd.Series:
        """Days in the table's own local time, datetime64[s]; NaT where the file has nothing."""
        column = self.frame[field]
        if not pd.api.types.is_datetime64_any_dtype(column):
            column = pd.to_datetime(column.astype("str"), format="ISO8601", errors="coerce")
        self.refuse(field, column.isna() & self.frame[field].notna(), "no date; write dates as in 2024-01-05")
        return column.dt.tz_localize(None).dt.normalize().dt.as_unit("s")

    def numbers(self, field: str) -> pd.Series:
        """float64, NaN where the file has nothing."""
        column = self.frame[field]
        numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
        self.refuse(field, (numbers.isna() & column.notna()) | np.isinf(numbers), "no finite number; mend the row")
        return numbers


def find_files(path: str, data_dir: str | None) -> list[Path]:
    """The table at `path`, or all tables below it in order of name.

    A relative path is looked up below `data_dir`, then below the current directory.

    Raises:
        UserError: if nothing is there, or no file of a known format.
    """
    found = locate_data(path, data_dir)
    files = [found] if found.is_file() else sorted(file for file in found.rglob("*") if file.is_file())
    tables = [file for file in files if file.name.endswith(FORMATS)]
    if not tables:
        raise UserError(f"{found}: no table here; expected files named {', '.join('*' + end for end in FORMATS)}.")
    return tables


def read_bars(files: list[Path]) -> pd.DataFrame:
    """All rows of price tables, sorted: code (categorical), date, open, high, low, close, volume, perhaps adj_close.

    Rows without trading are still there (see `traded`). adj_close is NaN for files that lack it.

    Raises:
        UserError: naming file, column, first row and how many, for a missing column, an unusable code or date, a
            number that is missing, negative or infinite, on a day with trading a price of zero or high < low, or a
            repeated day.
    """
    return _sorted_sessions(files, _bars)


def traded(bars: pd.DataFrame) -> pd.Series:
    """Whether the issue traded: false for halts and holidays (no volume, or open, high and low all zero)."""
    return (bars.volume > 0) & ((bars.open > 0) | (bars.high > 0) | (bars.low > 0))


def read_flows(files: list[Path]) -> pd.DataFrame:
    """Net buying by foreigners and institutions together, sorted: code (categorical), date, flow, as in the files.

    A missing side counts as 0; NaN where both are missing.

    Raises:
        UserError: as `read_bars`, or if a file has neither side.
    """
    return _sorted_sessions(files, _flows)


def read_sectors(file: Path, scheme: SectorScheme) -> pd.DataFrame:
    """Sector membership: code, valid_from, valid_to (both inclusive, NaT where open), sector (−1 unknown).

    Sorted by code and valid_from. Sectors may be ids or names of the scheme; for thirteen sectors also the names of
    the older twenty.

    Raises:
        UserError: for a missing column, an unusable code or date, an id out of range, an unknown name, or two rows of
            one issue whose periods overlap.
    """
    table = _read(file, ["code", scheme.version, "valid_from", "valid_to"], ["code", scheme.version])
    frame = pd.DataFrame({"code": table.codes(), "sector": _sector_ids(table, scheme)})
    for field in ("valid_from", "valid_to"):
        frame[field] = table.days(field) if field in table.columns else np.datetime64("NaT", "s")
    if "valid_to" in table.columns:
        table.refuse("valid_to", frame.valid_to < frame.valid_from, "earlier than valid_from")
    frame = frame.sort_values(["code", "valid_from"], kind="stable", na_position="first")
    previous_end = frame.groupby("code").valid_to.shift()
    overlaps = previous_end.isna() | frame.valid_from.isna() | (frame.valid_from <= previous_end)
    reason = "listed twice for the same days; valid_from and valid_to are both inclusive and may not overlap"
    table.refuse("code", (frame.code.duplicated() & overlaps).sort_index(), reason)
    return frame.reset_index(drop=True)


def _sorted_sessions(files: list[Path], read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """The tables of all files as one, a row per issue and session."""
    table = pd.concat([read(file) for file in files], keys=range(len(files)))  # the index remembers file and row
    table["code"] = table.code.astype("category")
    table = table.sort_values(["code", "date"], kind="stable")
    repeated = table.duplicated(["code", "date"]).to_numpy()
    if repeated.any():
        place = repeated.argmax()
        file, row = table.index[place]
        raise UserError(
            f"{files[file]}, columns code and date, data row {row + 1}: {table.code.iloc[place]} on "
            f"{table.date.iloc[place].date()} was there before ({repeated.sum()} such rows); keep one row per day."
        )
    return table.reset_index(drop=True)


def _bars(file: Path) -> pd.DataFrame:
    table = _read(file, ["code", "date", *PRICES, "adj_close", "volume"], [*PRICES, "volume"])
    frame = _keys(table)
    numeric = [field for field in table.columns if field not in ("code", "date")]
    for field in numeric:
        frame[field] = table.numbers(field)
        table.refuse(field, ~(frame[field] >= 0), "no number ≥ 0; mend or remove the row")
    trading = traded(frame)
    for field in numeric:
        table.refuse(field, trading & (frame[field] == 0), "a price of zero on a day with trading; mend the row")
    # prices adjusted and rounded one by one may cross by a trace
    crossed = trading & (frame.high < frame.low * (1 - 1e-3))
    table.refuse("high", crossed, "below the low of that day; are the columns mixed up?")
    return frame


def _flows(file: Path) -> pd.DataFrame:
    table = _read(file, ["code", "date", "foreign", "institution"], [])
    frame = _keys(table)
    sides = [table.numbers(side) for side in ("foreign", "institution") if side in table.columns]
    if not sides:
        raise UserError(table.lacks("foreign", "institution"))
    frame["flow"] = pd.concat(sides, axis=1).sum(axis=1, min_count=1)
    return frame


def _keys(table: _Table) -> pd.DataFrame:
    """Code and date of every row, from the columns or else from the file's name."""
    for field, pattern, example in (("code", CODE_IN_NAME, "005930.csv"), ("date", DAY_IN_NAME, "20240105.csv")):
        if field not in table.columns:
            found = set(pattern.findall(table.file.name))
            if len(found) != 1:
                raise UserError(f"{table.lacks(field)} Nor does the file's name tell it, as {example} would.")
            table.frame[field] = found.pop()
            table.columns[field] = "(file name)"
    table.refuse("date", table.frame["date"].isna(), "no date; mend or remove the row")
    return pd.DataFrame({"code": table.codes(), "date": table.days("date")})


def _read(file: Path, fields: list[str], required: list[str]) -> _Table:
    """The fields that the file has, values as they are there."""
    try:
        frame = _read_parquet(file) if file.name.endswith(".parquet") else _read_csv(file, fields)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: cannot be read ({reason}); expected {' or '.join(FORMATS)}.") from None
    columns = _columns(frame.columns, fields)
    found = pd.DataFrame({field: frame[name] for field, name in columns.items()})
    table = _Table(file, found, columns, [str(name) for name in frame.columns])
    for field in required:
        if field not in columns:
            raise UserError(table.lacks(field))
    return table


def _read_csv(file: Path, fields: list[str]) -> pd.DataFrame:
    try:
        return _decode_csv(file, fields, "utf-8-sig")
    except UnicodeDecodeError:  # the exchange's site and Korean spreadsheets write the older encoding
        return _decode_csv(file, fields, "cp949")


def _decode_csv(file: Path, fields: list[str], encoding: str) -> pd.DataFrame:
    header = pd.read_csv(file, nrows=0, encoding=encoding).columns
    text = {name: str for field, name in _columns(header, fields).items() if field in TEXT}
    return pd.read_csv(file, dtype=text, encoding=encoding, low_memory=False)


def _read_parquet(file: Path) -> pd.DataFrame:
    frame = pd.read_parquet(file)
    if isinstance(frame.index, pd.RangeIndex):
        return frame
    return frame.rename_axis(index=lambda name: name or NAMELESS).reset_index()


def _columns(header: Iterable[str], fields: list[str]) -> dict[str, str]:
    """What the file calls each field that it has; a nameless first column is the date."""
    plain = {str(name).strip().lower().replace(" ", "_"): name for name in header}
    known = {field: next((plain[name] for name in NAMES[field] if name in plain), None) for field in fields}
    if "date" in fields and known["date"] is None and NAMELESS in plain.values():
        known["date"] = NAMELESS
    return {field: name for field, name in known.items() if name is not None}


def _sector_ids(table: _Table, scheme: SectorScheme) -> pd.Series:
    ids_by_name = _ids_by_name(scheme)
    text = table.frame[scheme.version].astype("str").str.strip()
    # "005" is no id: the brokers' "001" … "020" number sectors in another order (lasps specification, section 4)
    ids = text.where(text.str.fullmatch(SECTOR_ID, na=False)).astype(np.float64)
    ids = ids.fillna(text.map(_plain_name, na_action="ignore").map(ids_by_name))
    unknown = ids.isna() & text.notna()
    if unknown.any():
        hint = nearest(_plain_name(text[unknown].iloc[0]), ids_by_name)
        reason = f"no sector of {scheme.version}.{hint} Give its id, its name, or -1 for unknown"
        table.refuse(scheme.version, unknown, reason)
    ids = ids.fillna(-1)
    outside = (ids < -1) | (ids >= len(scheme))
    table.refuse(scheme.version, outside, f"no sector id from 0 to {len(scheme) - 1}, nor -1 for unknown")
    return ids.astype(np.int64)


def _ids_by_name(scheme: SectorScheme) -> dict[str, int]:
    older = zip(LASPS20.korean + LASPS20.english, LASPS20_TO_13 * 2, strict=True) if scheme == LASPS13 else ()
    own = [*enumerate(scheme.korean), *enumerate(scheme.english)]
    return {_plain_name(name): sector for name, sector in older} | {_plain_name(name): sector for sector, name in own}


def _plain_name(name: str) -> str:
    return name.replace(" ", "").casefold()
