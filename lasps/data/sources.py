"""Real daily bars: five US issues that come with a dependency, and the Korean files that users have."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from common.errors import UserError
from lasps.data.bars import Bars
from lasps.data.sectors import SCHEMES, SectorScheme
from lasps.data.tables import PRICES, find_files, read_bars, read_flows, read_sectors, traded

US_SAMPLE = SectorScheme(
    "us_sample", ("하드웨어", "소프트웨어·인터넷", "기타"), ("hardware", "software & internet", "other")
)
US_SECTORS = {"AAPL": 0, "IBM": 0, "GOOG": 1, "MSFT": 1, "FB": 1}


class UsSample:
    """Daily bars of AAPL, FB, GOOG, IBM and MSFT, 2000-03-01 … 2013-03-01, from the bokeh_sampledata wheel.

    Prices are adjusted for splits and dividends. Volume is divided by the same factor, so that price × volume stays
    the money that changed hands. The sector is today's, the flow unknown. Public domain (WIKI Prices).
    """

    synthetic = False

    def load(self, data_dir: str | None) -> Bars:
        """The bars; `data_dir` is not needed."""
        resource = files("bokeh_sampledata") / "_data" / "stocks.csv.gz"
        with as_file(resource) as file:
            rows, counts = _read_traded([file])
        rows["volume"] *= rows.close / rows.adj_close
        rows["sector"] = rows.code.astype("str").map(US_SECTORS)
        return _assemble(rows.assign(flow=np.nan), US_SAMPLE, np.inf, counts)


class KrxFiles:
    """Daily bars of Korean issues from files saved with FinanceDataReader, pykrx or yfinance.

    Days without trading are left out and counted. Open, high, low and close are scaled by adj_close / close where the
    files have it; volume is used as it is (Yahoo adjusts it for splits itself).

    Args:
        path: a price table or a folder of them, CSV or Parquet; relative to the data directory or the current one.
        sectors: a table of code, sector and perhaps valid_from and valid_to (inclusive). Without it every row is of
            the sector "other".
        flows: table or folder of net buying by foreigners and institutions.
        flow_unit: what the flows count. Won are divided by the close of the day.
        max_daily_move: a larger move of the close, up or down, between two sessions with trading is an unadjusted
            corporate action and starts a new segment. The exchange's own limit is 0.30.
        num_sectors: 13 for the present scheme, 20 for the older one.
        unknown_sector: rows whose sector no table tells go to "other", are dropped, or are refused. They are counted.
    """

    synthetic = False

    def __init__(
        self,
        path: str,
        sectors: str | None = None,
        flows: str | None = None,
        flow_unit: Literal["shares", "won"] = "shares",
        max_daily_move: Annotated[float, Field(gt=0)] = 0.305,
        num_sectors: Literal[13, 20] = 13,
        unknown_sector: Literal["other", "drop", "refuse"] = "other",
    ):
        self.path, self.sectors, self.flows, self.flow_unit = path, sectors, flows, flow_unit
        self.unknown_sector = unknown_sector
        self.max_daily_move, self.scheme = max_daily_move, SCHEMES[num_sectors]

    def load(self, data_dir: str | None) -> Bars:
        """The bars of all files.

        Raises:
            UserError: if a file is missing or holds something unusable, naming file, column and row.
        """
        rows, counts = _read_traded(find_files(self.path, data_dir))
        rows["flow"] = self._flow(rows, data_dir)
        known = self._known_sector(rows, data_dir)
        rows["sector"] = np.where(known < 0, self.scheme.other, known)
        counts["unknown_sector_issues"] = int(rows.code[known < 0].nunique())
        counts["unknown_sector_rows"] = int((known < 0).sum())
        counts["unknown_flow_rows"] = int(rows.flow.isna().sum())
        if self.unknown_sector != "other" and (known < 0).any():
            rows = self._without_unknown(rows, known)
        return _assemble(rows, self.scheme, self.max_daily_move, counts)

    def _without_unknown(self, rows: pd.DataFrame, known: np.ndarray) -> pd.DataFrame:
        issues = rows.code[known < 0].unique()
        if self.unknown_sector == "refuse" or (known < 0).all():
            raise UserError(
                f"sectors: {self.sectors} tells no sector of {', '.join(issues[:5])} ({len(issues)} issues, "
                f"{(known < 0).sum()} rows); add them or set data.unknown_sector=other."
            )
        rows = rows[known >= 0].reset_index(drop=True)
        return rows.assign(code=rows.code.cat.remove_unused_categories())

    def _flow(self, rows: pd.DataFrame, data_dir: str | None) -> np.ndarray:
        """(R,) net shares bought on each row's day, NaN where no table tells."""
        if self.flows is None:
            return np.full(len(rows), np.nan)
        flows = read_flows(find_files(self.flows, data_dir))
        flows["code"] = flows.code.cat.set_categories(rows.code.cat.categories)
        flow = rows[["code", "date"]].merge(flows, on=["code", "date"], how="left").flow.to_numpy()
        if self.flow_unit == "won":
            return flow / rows.close.to_numpy()
        _refuse_won(self.flows, flow, rows.volume.to_numpy())
        return flow

    def _known_sector(self, rows: pd.DataFrame, data_dir: str | None) -> np.ndarray:
        """(R,) sector id valid on each row's day, −1 where no table tells."""
        if self.sectors is None:
            return np.full(len(rows), -1)
        (file, *more) = find_files(self.sectors, data_dir)
        if more:
            raise UserError(f"sectors: {self.sectors} holds {1 + len(more)} tables; give the path of one file.")
        table = read_sectors(file, self.scheme)
        table["issue"] = rows.code.cat.categories.get_indexer(table.code)
        return _valid_on(rows.code.cat.codes.to_numpy(), _day(rows.date), table[table.issue >= 0])


def _read_traded(paths: list[Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows with trading, adj_close filled in, and the counts of what was read and left out."""
    rows = read_bars(paths)
    trading = traded(rows)
    counts = {
        "rows_read": len(rows), "issues_read": rows.code.nunique(), "non_trading_rows": int((~trading).sum())
    }  # fmt: skip
    rows = rows[trading].reset_index(drop=True)
    if rows.empty:
        raise UserError(f"{paths[0]}: {counts['rows_read']} rows read, none with trading (volume and prices above 0).")
    rows["code"] = rows.code.cat.remove_unused_categories()
    rows["adj_close"] = rows.adj_close.fillna(rows.close) if "adj_close" in rows else rows.close
    return rows, counts


def _assemble(rows: pd.DataFrame, scheme: SectorScheme, max_daily_move: float, counts: dict[str, int]) -> Bars:
    """Bars from rows sorted by code and date that hold prices, adj_close, volume, flow and sector."""
    stock = rows.code.cat.codes.to_numpy().astype(np.int32)
    prices = {name: (rows[name] * (rows.adj_close / rows.close)).to_numpy(copy=True) for name in PRICES}
    new_issue = np.diff(stock, prepend=-1) != 0
    move = np.abs(prices["close"] / np.roll(prices["close"], 1) - 1)
    new_price = ~new_issue & (move > max_daily_move)
    return Bars(
        codes=list(rows.code.cat.categories),
        stock=stock,
        segment=(np.cumsum(new_issue | new_price) - 1).astype(np.int32),
        date=_day(rows.date),
        **prices,
        volume=rows.volume.to_numpy(copy=True),
        flow=rows.flow.to_numpy(copy=True),
        sector=rows.sector.to_numpy().astype(np.int64),
        sectors=scheme,
        synthetic=False,
        counts=counts | {"price_breaks": int(new_price.sum()), "rows": len(rows)},
        factor=(rows.adj_close / rows.close).to_numpy(copy=True),
    )


def _refuse_won(path: str, flow: np.ndarray, volume: np.ndarray) -> None:
    """Net buying in shares cannot exceed the day's volume, and hardly ever 1e8."""
    some = np.nan_to_num(flow) != 0
    implausible = np.abs(flow[some]) > np.minimum(volume[some], 1e8)
    if 2 * implausible.sum() > some.sum():
        raise UserError(
            f"flows: most of {path} exceeds the day's volume or 1e8, so it is not in shares; "
            "set data.flow_unit=won if it is net buying in won."
        )


def _valid_on(issue: np.ndarray, day: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """(R,) sector of each (issue, day) in a table sorted by issue and valid_from, −1 where none is valid."""
    start = _key(table.issue.to_numpy(), _day(table.valid_from, missing="0001-01-01"))
    end = _key(table.issue.to_numpy(), _day(table.valid_to, missing="9999-12-31"))
    never = np.iinfo(np.int64).min
    end, sector = np.append(never, end), np.append(-1, table.sector)
    key = _key(issue, day)
    begun = np.searchsorted(start, key, side="right")  # periods do not overlap: only the last one begun can be valid
    return np.where(key <= end[begun], sector[begun], -1)


def _key(issue: np.ndarray, day: np.ndarray) -> np.ndarray:
    """One ascending number per (issue, day)."""
    return (issue.astype(np.int64) << 32) + day.astype(np.int64)


def _day(dates: pd.Series, missing: str = "NaT") -> np.ndarray:
    days = dates.to_numpy().astype("datetime64[D]")
    return np.where(np.isnat(days), np.datetime64(missing), days)
