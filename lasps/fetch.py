"""Daily bars, net buying and sectors from FinanceDataReader or pykrx, saved for `data=lasps/krx`.

python -m lasps.fetch FOLDER --codes 005930 000660 --start 2020-01-01 --source fdr
python -m lasps.fetch FOLDER --market KOSPI --start 2020-01-01 --source pykrx --flows --sectors

Every answer is kept as delivered: bars/CODE.csv, flows/CODE.csv (won), classifications/DAY-MARKET.csv; sectors.csv is
made from the classifications. fetched.json says what was asked, when, and what failed, because adjusted prices change.

Exit code 0 if all was fetched, 1 if something failed, 2 for a user's mistake. pykrx asks for numpy < 2 and so for an
environment of its own: this file needs only Python 3.11, pandas 2 or 3 and the package that it fetches with.
"""

import argparse
import importlib
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.files import read_json, write_json, write_text

SEOUL = timezone(timedelta(hours=9))
ATTEMPTS = 3
MARKETS = ("KOSPI", "KOSDAQ")
LOGIN = "since 27 December 2025 the exchange's site needs a login: set KRX_ID and KRX_PW, with pykrx 1.2 or newer"

# the exchange's industries under our thirteen (lasps specification, section 4), before and after its renaming of
# 2024–25, without blanks; industries that are not here, such as most of KOSDAQ's before, become -1, unknown
INDUSTRIES = {
    "전기전자": "전기전자 전기·전자", "금융업": "금융업 금융 기타금융 은행 증권 보험",
    "서비스업": "서비스업 일반서비스 IT서비스", "의약품": "의약품 제약", "유통업": "유통업 유통",
    "철강금속": "철강금속 금속", "기계": "기계 기계·장비", "화학": "화학", "건설업": "건설업 건설",
    "음식료품": "음식료품 음식료·담배",
    "운수": "운수장비 운송장비·부품 운수창고업 운수창고 운송·창고", "제조업": "제조업 제조",
    "기타": "섬유의복 섬유·의류 종이목재 종이·목재 비금속광물 비금속 전기가스업 전기·가스 통신업 통신 농업,임업및어업",
}  # fmt: skip
SECTOR_OF = {industry: sector for sector, industries in INDUSTRIES.items() for industry in industries.split()}


class _NoData(Exception):
    """An answer came, but nothing is in it; asking again will not help."""


class FinanceDataReader:
    """Bars as Naver shows them, adjusted for splits; needs no login."""

    def __init__(self):
        self.reader = _load("FinanceDataReader", "finance-datareader")
        self.version = getattr(self.reader, "__version__", "unknown")

    def listed(self, market: str, days: list[date], pause: float) -> list[str]:
        """Codes listed today: issues delisted since are missing, so results on them are biased to survivors."""
        return list(_patiently(lambda: self.reader.StockListing(market), pause)["Code"])

    def bars(self, code: str, start: date, end: date) -> pd.DataFrame:
        return _filled(self.reader.DataReader(code, start.isoformat(), end.isoformat()), "Close")


class Pykrx:
    """Bars as Naver shows them, adjusted; listings, net buying and sectors from the exchange, after login."""

    def __init__(self):
        self.version = getattr(_load("pykrx", "pykrx"), "__version__", "unknown")
        self.stock = _load("pykrx.stock", "pykrx")

    def listed(self, market: str, days: list[date], pause: float) -> list[str]:
        """Codes listed on any of the days, so that issues delisted since are there."""
        ask = self.stock.get_market_ticker_list
        return sorted({code for day in days for code in _patiently(lambda d=day: ask(self._session(d), market), pause)})

    def bars(self, code: str, start: date, end: date) -> pd.DataFrame:
        return _filled(self.stock.get_market_ohlcv(f"{start:%Y%m%d}", f"{end:%Y%m%d}", code, adjusted=True), "종가")

    def flows(self, code: str, start: date, end: date) -> pd.DataFrame:
        frame = self.stock.get_market_trading_value_by_date(f"{start:%Y%m%d}", f"{end:%Y%m%d}", code)
        return _filled(frame, "외국인합계")

    def sectors(self, day: date, market: str) -> pd.DataFrame:
        """The industries at the last session up to the day."""
        return _filled(self.stock.get_market_sector_classifications(self._session(day), market), "업종명")

    def _session(self, day: date) -> str:
        return self.stock.get_nearest_business_day_in_a_week(f"{day:%Y%m%d}")


SOURCES = {"fdr": FinanceDataReader, "pykrx": Pykrx}


def main(words: list[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    try:
        failures = fetch(arguments)
    except UserError as error:  # not common.cli.fail: it imports hydra
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:  # the network's are told per file: this is the disk
        where = error.filename or arguments.folder
        print(f"error: {where}: {error.strerror}; what is there is unharmed: mend this, add --resume.", file=sys.stderr)
        raise SystemExit(2) from None
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    raise SystemExit(1 if failures else 0)


def fetch(arguments: argparse.Namespace) -> dict[str, str]:
    """What could not be fetched, and why; everything else lies in the folder.

    Raises:
        UserError: for arguments that do not fit each other or the folder, a missing package or a missing login.
    """
    folder, start = arguments.folder, arguments.start
    record = _record(folder, arguments)
    end = date.fromisoformat(record["end"])
    _check(arguments, end)
    source = SOURCES[arguments.source]()
    days = sorted({start, *pd.date_range(start, end, freq="QS").date})  # sectors and listings are asked for quarterly
    codes = _codes(source, arguments, days)
    record["runs"].append({"time": _now(), "version": source.version, "arguments": vars(arguments)})

    calls = {f"bars/{code}.csv": lambda code=code: source.bars(code, start, end) for code in codes}
    if arguments.flows:
        calls |= {f"flows/{code}.csv": lambda code=code: source.flows(code, start, end) for code in codes}
    if arguments.sectors:
        pairs = [(day, market) for day in days for market in MARKETS]
        calls |= {f"classifications/{d}-{m}.csv": lambda d=d, m=m: source.sectors(d, m) for d, m in pairs}
    calls = {name: call for name, call in calls.items() if not (folder / name).exists()}
    _save_all(folder, calls, record, arguments.pause)
    if arguments.sectors:
        _write_sectors(folder, days)
    return {name: reason for name, reason in record["failures"].items() if name in calls}


def _save_all(folder: Path, calls: dict[str, Callable[[], pd.DataFrame]], record: dict, pause: float) -> None:
    """Fetch one file at a time; the record on disk keeps up with the files."""
    write_json(folder / "fetched.json", record)
    for number, (name, call) in enumerate(calls.items(), 1):
        print(f"\r{number}/{len(calls)} {name:<40}", end="", file=sys.stderr, flush=True)
        record["failures"].pop(name, None)
        try:
            frame = _patiently(call, pause)
        except Exception as error:  # whatever a scraper raises, the other issues go on
            record["failures"][name] = _explain(error)
        else:
            write_text(folder / name, frame.to_csv(lineterminator="\n"))
            record["files"][name] = {"rows": len(frame), "time": _now()}
        write_json(folder / "fetched.json", record)
    print(file=sys.stderr)


def _write_sectors(folder: Path, days: list[date]) -> None:
    """sectors.csv: code, valid_from, valid_to, lasps13, 업종명, from the days on which both markets answered."""
    files = {day: [folder / f"classifications/{day}-{market}.csv" for market in MARKETS] for day in days}
    files = {day: pair for day, pair in files.items() if all(file.exists() for file in pair)}
    last = [day - timedelta(days=1) for day in list(files)[1:]] + [""]
    tables = []
    for (day, pair), valid_to in zip(files.items(), last, strict=False):
        table = pd.concat([pd.read_csv(file, dtype=str) for file in pair])
        sector = table["업종명"].str.replace(" ", "").map(SECTOR_OF).fillna("-1")
        tables.append(pd.DataFrame({"code": table.iloc[:, 0], "valid_from": day, "valid_to": valid_to,
                                    "lasps13": sector, "업종명": table["업종명"]}))  # fmt: skip
    if tables:
        sectors = pd.concat(tables)
        write_text(folder / "sectors.csv", sectors.to_csv(index=False, lineterminator="\n"))
        unknown = sorted(sectors["업종명"][sectors.lasps13 == "-1"].dropna().unique())
        print(f"{folder / 'sectors.csv'}: industries without a sector of ours: {', '.join(unknown) or 'none'}")


def _record(folder: Path, arguments: argparse.Namespace) -> dict:
    """The folder's fetched.json, or a new one; without --end, yesterday in Seoul, as today's session may go on."""
    asked = {"source": arguments.source, "start": str(arguments.start)}
    asked |= {"end": str(arguments.end)} if arguments.end else {}
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        yesterday = datetime.now(SEOUL).date() - timedelta(days=1)
        facts = {"adjusted": True, "flow_unit": "won", "runs": [], "files": {}, "failures": {}}
        return {"end": str(yesterday), **asked, **facts}
    if not arguments.resume:
        raise UserError(f"{folder}: not empty; name a new folder, or add --resume to fetch what is missing there.")
    if not (folder / "fetched.json").is_file():
        raise UserError(f"{folder}: has no fetched.json, so there is nothing to resume; name a new folder.")
    record = read_json(folder / "fetched.json")
    other = [f"{name} {record[name]}" for name in asked if record[name] != asked[name]]
    if other:
        raise UserError(f"{folder}: was fetched with {', '.join(other)}; ask for the same, or name a new folder.")
    return record


def _check(arguments: argparse.Namespace, end: date) -> None:
    if arguments.start > end:
        raise UserError(f"--start {arguments.start} is after --end {end}.")
    if arguments.pause < 0:
        raise UserError(f"--pause {arguments.pause}: seconds, 0 or more.")
    if arguments.source == "fdr" and (arguments.flows or arguments.sectors):
        raise UserError("--flows and --sectors come from the exchange: use --source pykrx.")
    exchange = arguments.source == "pykrx" and (arguments.flows or arguments.sectors or arguments.market)
    if exchange and not (os.environ.get("KRX_ID") and os.environ.get("KRX_PW")):
        raise UserError(f"--flows, --sectors and --market of pykrx: {LOGIN}.")


def _codes(source: FinanceDataReader | Pykrx, arguments: argparse.Namespace, days: list[date]) -> list[str]:
    codes = arguments.codes
    if arguments.codes_file:
        try:
            codes = arguments.codes_file.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--codes-file {arguments.codes_file}: cannot be read ({error}).") from None
    if arguments.market:
        try:
            codes = source.listed(arguments.market, days, arguments.pause)
        except Exception as error:
            raise UserError(f"--market {arguments.market}: no listing: {_explain(error)}; or give --codes.") from error
    wrong = [code for code in codes if not re.fullmatch("[0-9][0-9A-Z]{5}", code)]
    if wrong or not codes:
        raise UserError(f"codes: {' '.join(wrong[:5]) or 'none'}; give codes of six characters, as in 005930.")
    return codes


def _patiently(call: Callable[[], Any], pause: float) -> Any:
    """The answer, asked for up to three times after growing pauses."""
    for attempt in range(ATTEMPTS):
        time.sleep(pause * 4**attempt)
        try:
            return call()
        except Exception as error:  # scrapers raise anything when a site stutters
            if isinstance(error, _NoData) or attempt == ATTEMPTS - 1:
                raise


def _filled(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    if frame.empty:  # pykrx also turns a refused login into an empty frame
        raise _NoData(f"nothing delivered: no such issue or no session in these days, or no login ({LOGIN})")
    if column not in frame.columns:
        raise KeyError(column)
    return frame


def _explain(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the answer lacks {error}; {LOGIN}"
    return str(error) if isinstance(error, _NoData) else f"{type(error).__name__}: {error}"


def _load(module: str, package: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        own = " in an environment of its own, as it asks for numpy < 2" if package == "pykrx" else ""
        raise UserError(f"{package} cannot be imported ({error}): `pip install {package}`{own}.") from None
    except Exception as error:  # pykrx logs in while it is imported
        raise UserError(f"{package} failed while it was imported ({_explain(error)}): network? {LOGIN}.") from error


def _now() -> str:
    return datetime.now(SEOUL).isoformat(timespec="seconds")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lasps.fetch", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folder", type=Path, help="new, or with --resume one that this command wrote")
    issues = parser.add_mutually_exclusive_group(required=True)
    issues.add_argument("--codes", nargs="+", help="codes of six characters")
    issues.add_argument("--codes-file", type=Path, help="codes separated by blanks or lines")
    issues.add_argument("--market", choices=MARKETS, help="pykrx: listed at any quarter; fdr: only those listed today")
    parser.add_argument("--start", type=date.fromisoformat, required=True, metavar="YYYY-MM-DD")
    parser.add_argument("--end", type=date.fromisoformat, metavar="YYYY-MM-DD", help="default: yesterday in Seoul")
    parser.add_argument("--source", choices=SOURCES, required=True)
    parser.add_argument("--flows", action="store_true", help="net buying by investor, in won (pykrx)")
    parser.add_argument("--sectors", action="store_true", help="industries at the start of every quarter (pykrx)")
    parser.add_argument("--resume", action="store_true", help="fetch only files that are not there yet")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds before every call; 4, 16 times that to retry")
    return parser


if __name__ == "__main__":
    main()
