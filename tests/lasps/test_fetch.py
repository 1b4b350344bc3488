"""Fetching from stand-ins for FinanceDataReader and pykrx; the network is never touched."""

import ast
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from lasps import fetch
from lasps.data.sectors import LASPS13
from lasps.data.sources import KrxFiles
from lasps.data.tables import read_sectors

DAYS = pd.DatetimeIndex(["2024-01-02", "2024-01-03"])
CLOSES = {"005930": [100.1, 100.3], "000660": [50, 51]}
SAMSUNG = ["--codes", "005930"]
BOTH = ["--codes", "005930", "000660"]


def bars(code: str, names: list[str], index: str) -> pd.DataFrame:
    close = np.array(CLOSES.get(code, []))
    columns = [close - 1, close + 2, close - 2, close, close * 0 + 1000, close * 0 + 0.5]
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=DAYS[: len(close)].rename(index))


class Calls(list):
    """What was asked, in order; `broken` maps a call to the errors that its next uses raise."""

    def __init__(self):
        super().__init__()
        self.broken = {}

    def note(self, *call: str) -> None:
        self.append(call)
        if self.broken.get(call):
            raise self.broken[call].pop()


@pytest.fixture
def fdr(monkeypatch):
    calls, module = Calls(), ModuleType("FinanceDataReader")

    def read(code, start, end):
        calls.note(code, start, end)
        return bars(code, ["Open", "High", "Low", "Close", "Volume", "Change"], "Date")

    module.__version__ = "0.9.110"
    module.DataReader = read
    module.StockListing = lambda market: pd.DataFrame({"Code": ["005930", "000660"], "Market": market})
    monkeypatch.setitem(sys.modules, "FinanceDataReader", module)
    return calls


@pytest.fixture
def krx(monkeypatch):
    """pykrx: 005930 leaves electronics for services on the first of April, 000660 is delisted by then."""
    calls, package, stock = Calls(), ModuleType("pykrx"), ModuleType("pykrx.stock")

    def prices(start, end, code, adjusted):
        assert adjusted
        calls.note("bars", code, start, end)
        return bars(code, ["시가", "고가", "저가", "종가", "거래량", "등락률"], "날짜")

    def value(start, end, code):
        calls.note("flows", code)
        columns = {"기관합계": [1000, -1], "기타법인": [7, 7], "개인": [-9, 9], "외국인합계": [1002, -2]}
        return pd.DataFrame(columns, index=DAYS.rename("날짜"))

    def industries(day, market):
        calls.note("sectors", day, market)
        late = day >= "20240401"
        known = {"KOSPI": {"005930": "IT 서비스" if late else "전기전자"}, "KOSDAQ": {"000660": "반도체"}}[market]
        index = pd.Index(list(known), name="종목코드")
        return pd.DataFrame({"종목명": "x", "업종명": list(known.values()), "종가": 1}, index=index)

    package.__version__, package.stock = "1.2.8", stock
    stock.get_market_ohlcv, stock.get_market_trading_value_by_date = prices, value
    stock.get_market_sector_classifications = industries
    stock.get_market_ticker_list = lambda day, market: ["005930"] if day >= "20240401" else ["000660", "005930"]
    stock.get_nearest_business_day_in_a_week = lambda day: {"20240101": "20231228"}.get(day, day)
    for module in (package, stock):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("KRX_ID", "id")
    monkeypatch.setenv("KRX_PW", "pw")
    return calls


def run(folder: Path, *words: str, source: str = "fdr", end: str = "2024-04-30") -> int:
    ends = ["--end", end] if end else []
    words = [str(folder), "--start", "2024-01-01", *ends, "--source", source, "--pause", "0", *words]
    with pytest.raises(SystemExit) as caught:
        fetch.main(words)
    return caught.value.code


def refusal(capsys, *arguments, **options) -> str:
    """What a user's mistake prints: one line, exit code 2."""
    assert run(*arguments, **options) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def record(folder: Path) -> dict:
    return json.loads((folder / "fetched.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "fetched.json")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_bars_of_financedatareader_come_back_as_they_were_delivered(tmp_path, fdr):
    assert run(tmp_path / "new", *BOTH) == 0
    table = KrxFiles("new/bars").load(str(tmp_path))
    assert table.codes == ["000660", "005930"]
    assert table.close.tolist() == [50, 51, 100.1, 100.3]
    assert table.high.tolist() == [52, 53, 102.1, 102.3]
    assert table.volume.tolist() == [1000] * 4
    assert table.date.astype(str).tolist() == ["2024-01-02", "2024-01-03"] * 2
    assert (tmp_path / "new/bars/000660.csv").read_text().startswith("Date,Open,High,Low,Close,Volume,Change\n2024-01-")
    assert fdr == [("005930", "2024-01-01", "2024-04-30"), ("000660", "2024-01-01", "2024-04-30")]


def test_bars_flows_and_sectors_of_pykrx_come_back(tmp_path, krx):
    assert run(tmp_path / "new", *BOTH, "--flows", "--sectors", source="pykrx") == 0
    source = KrxFiles("new/bars", sectors="new/sectors.csv", flows="new/flows", flow_unit="won")
    table = source.load(str(tmp_path))
    assert table.close.tolist() == [50, 51, 100.1, 100.3]
    assert table.flow == pytest.approx([2002 / 50, -3 / 51, 2002 / 100.1, -3 / 100.3])
    assert table.sector.tolist() == [12, 12, 0, 0]  # 반도체 is none of ours: unknown, so "other"
    assert table.counts["unknown_sector_issues"] == 1
    assert krx[0] == ("bars", "005930", "20240101", "20240430")


def test_sectors_are_dated_by_quarter_and_taken_from_the_last_session(tmp_path, krx, capsys):
    assert run(tmp_path, *SAMSUNG, "--sectors", source="pykrx") == 0
    table = read_sectors(tmp_path / "sectors.csv", LASPS13)
    assert table.code.tolist() == ["000660"] * 2 + ["005930"] * 2
    assert table.sector.tolist() == [-1, -1, 0, 2]
    assert table.valid_from.astype(str).tolist() == ["2024-01-01", "2024-04-01"] * 2
    assert table.valid_to.dt.strftime("%F").fillna("open").tolist() == ["2024-03-31", "open"] * 2
    days = [call[1] for call in krx if call[0] == "sectors"]
    assert days == ["20231228", "20231228", "20240401", "20240401"]
    assert "without a sector of ours: 반도체\n" in capsys.readouterr().out


def test_a_day_on_which_one_market_failed_is_left_out_of_the_sectors(tmp_path, krx):
    krx.broken["sectors", "20240401", "KOSDAQ"] = [OSError("down")] * 3
    assert run(tmp_path, *SAMSUNG, "--sectors", source="pykrx") == 1
    assert read_sectors(tmp_path / "sectors.csv", LASPS13).valid_to.isna().all()
    assert run(tmp_path, *SAMSUNG, "--sectors", "--resume", source="pykrx") == 0
    assert len(read_sectors(tmp_path / "sectors.csv", LASPS13)) == 4


def test_every_industry_leads_to_one_of_our_sectors():
    assert set(fetch.SECTOR_OF.values()) == set(LASPS13.korean)
    assert [fetch.SECTOR_OF[name] for name in ("운수장비", "전기·가스", "음식료·담배")] == ["운수", "기타", "음식료품"]
    assert sum(len(line.split()) for line in fetch.INDUSTRIES.values()) == len(fetch.SECTOR_OF)


def test_the_record_says_what_was_asked_and_what_came(tmp_path, fdr):
    assert run(tmp_path, *SAMSUNG) == 0
    told = record(tmp_path)
    assert (told["source"], told["adjusted"], told["start"], told["end"]) == ("fdr", True, "2024-01-01", "2024-04-30")
    assert told["files"]["bars/005930.csv"]["rows"] == 2
    assert told["failures"] == {}
    assert told["files"]["bars/005930.csv"]["time"].endswith("+09:00")
    assert told["runs"][0]["version"] == "0.9.110"
    assert told["runs"][0]["arguments"]["codes"] == ["005930"]


def test_a_failing_issue_stops_no_other_and_is_told_at_the_end(tmp_path, fdr, capsys):
    fdr.broken["005930", "2024-01-01", "2024-04-30"] = [ConnectionError("refused")] * 3
    assert run(tmp_path, "--codes", "005930", "999999", "000660") == 1
    assert list(content(tmp_path)) == ["bars/000660.csv"]
    told = capsys.readouterr().err
    assert "failed: bars/005930.csv: ConnectionError: refused\n" in told
    assert "failed: bars/999999.csv: nothing delivered" in told
    assert set(record(tmp_path)["failures"]) == {"bars/005930.csv", "bars/999999.csv"}
    assert [call[0] for call in fdr] == ["005930"] * 3 + ["999999", "000660"]  # an empty answer is not asked for again


def test_a_stutter_is_waited_out_with_growing_pauses(tmp_path, fdr, monkeypatch):
    waits = []
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    fdr.broken["005930", "2024-01-01", "2024-04-30"] = [OSError("stutter")] * 2
    assert run(tmp_path, *SAMSUNG, "--pause", "0.5") == 0
    assert waits == [0.5, 2, 8]


def test_nothing_is_overwritten_and_resume_fetches_what_is_missing(tmp_path, fdr, capsys):
    fdr.broken["000660", "2024-01-01", "2024-04-30"] = [OSError("down")] * 3
    assert run(tmp_path, *BOTH) == 1
    before = content(tmp_path)
    capsys.readouterr()
    assert "--resume" in refusal(capsys, tmp_path, *BOTH)
    assert content(tmp_path) == before
    fdr.clear()
    assert run(tmp_path, *BOTH, "--resume", end="") == 0
    assert fdr == [("000660", "2024-01-01", "2024-04-30")]  # and with the end asked for first
    assert content(tmp_path).items() > before.items()
    told = record(tmp_path)
    assert told["failures"] == {}
    assert len(told["runs"]) == len(told["files"]) == 2


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, fdr):
    fdr.broken["000660", "2024-01-01", "2024-04-30"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", *BOTH)
    assert list(record(tmp_path / "a")["files"]) == list(content(tmp_path / "a")) == ["bars/005930.csv"]
    assert run(tmp_path / "a", *BOTH, "--resume") == run(tmp_path / "b", *BOTH) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_without_an_end_the_session_of_today_is_left_out(tmp_path, fdr):
    before = fetch.datetime.now(fetch.SEOUL).date()
    assert run(tmp_path, *SAMSUNG, end="") == 0
    after = fetch.datetime.now(fetch.SEOUL).date()
    assert record(tmp_path)["end"] in {str(day - fetch.timedelta(days=1)) for day in (before, after)}
    assert fdr[0][2] == record(tmp_path)["end"]


def test_a_resumed_fetch_must_ask_for_the_same(tmp_path, fdr, krx, capsys):
    assert run(tmp_path, *SAMSUNG) == 0
    capsys.readouterr()
    assert "end 2024-04-30" in refusal(capsys, tmp_path, *BOTH, "--resume", end="2024-05-31")
    assert "source fdr" in refusal(capsys, tmp_path, *BOTH, "--resume", source="pykrx")
    (tmp_path / "fetched.json").unlink()
    assert "nothing to resume" in refusal(capsys, tmp_path, *BOTH, "--resume")


def test_a_full_disk_is_no_failed_issue(tmp_path, fdr, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(fetch, "write_text", full)
    assert run(tmp_path, *BOTH) == 2
    assert "No space left" in capsys.readouterr().err
    assert len(fdr) == 1


def test_a_market_of_pykrx_holds_the_issues_delisted_since(tmp_path, krx):
    assert run(tmp_path, "--market", "KOSPI", source="pykrx") == 0
    assert list(content(tmp_path)) == ["bars/000660.csv", "bars/005930.csv"]


def test_codes_come_from_a_file_or_a_listing(tmp_path, fdr):
    (tmp_path / "codes.txt").write_text("005930\n000660\n005930\n")
    assert run(tmp_path / "a", "--codes-file", str(tmp_path / "codes.txt")) == 0
    assert run(tmp_path / "b", "--market", "KOSPI") == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert len(fdr) == 4


def test_a_missing_login_is_told_before_the_first_call(tmp_path, krx, monkeypatch, capsys):
    monkeypatch.delenv("KRX_PW")
    for words in (["--flows", *SAMSUNG], ["--sectors", *SAMSUNG], ["--market", "KOSPI"]):
        assert "KRX_ID and KRX_PW" in refusal(capsys, tmp_path / "new", *words, source="pykrx")
    assert krx == []
    assert not (tmp_path / "new").exists()
    assert run(tmp_path / "new", *SAMSUNG, source="pykrx") == 0  # adjusted bars come from Naver, without login


def test_answers_without_their_columns_point_to_the_login(tmp_path, krx, monkeypatch, capsys):
    krx.broken["bars", "000660", "20240101", "20240430"] = [KeyError("시가")] * 3
    stock = sys.modules["pykrx.stock"]
    monkeypatch.setattr(stock, "get_market_trading_value_by_date", lambda *_: pd.DataFrame({"개인": [1]}))
    assert run(tmp_path, "--codes", "000660", "--flows", source="pykrx") == 1
    told = capsys.readouterr().err
    assert "bars/000660.csv: the answer lacks '시가'; since 27 December 2025" in told
    assert "flows/000660.csv: the answer lacks '외국인합계'; since 27 December 2025" in told
    assert content(tmp_path) == {}


@pytest.mark.parametrize(("source", "package"), [("fdr", "finance-datareader"), ("pykrx", "pykrx")])
def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch, capsys, source, package):
    for module in ("FinanceDataReader", "pykrx", "pykrx.stock"):
        monkeypatch.setitem(sys.modules, module, None)
    message = refusal(capsys, tmp_path, *SAMSUNG, source=source)
    assert f"`pip install {package}`" in message
    assert ("numpy < 2" in message) == (source == "pykrx")


def test_arguments_that_do_not_fit_are_one_line(tmp_path, fdr, capsys):
    new = tmp_path / "new"
    assert "--source pykrx" in refusal(capsys, new, *SAMSUNG, "--flows")
    assert "is after" in refusal(capsys, new, *SAMSUNG, end="2023-12-31")
    assert "5930; give codes of six" in refusal(capsys, new, "--codes", "5930")
    assert "cannot be read" in refusal(capsys, new, "--codes-file", str(tmp_path / "none"))
    assert "0 or more" in refusal(capsys, new, *SAMSUNG, "--pause", "-1")
    assert not new.exists()


def test_only_pandas_and_numpy_are_needed_beside_the_standard_library():
    root = Path(fetch.__file__).parents[1]
    for name in ("lasps/__init__", "lasps/fetch", "common/__init__", "common/errors", "common/files"):
        tree = ast.parse((root / f"{name}.py").read_text(encoding="utf-8"))
        modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
        ours = {"common.errors", "common.files", "pandas", "numpy"}
        assert all(module in ours or module.split(".")[0] in sys.stdlib_module_names for module in modules), name
