"""Bars from files: every dialect, every mistake, and the counts on real data."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from lasps.data.sectors import LASPS13, LASPS20
from lasps.data.sources import KrxFiles, UsSample
from lasps.data.tables import find_files, read_bars, read_flows, read_sectors

HEADER = "date,code,open,high,low,close,volume"
GOOD = [
    "2024-01-02,000660,100,110,95,105,1000",
    "2024-01-03,000660,105,112,101,110,2000",
    "2024-01-02,005930,50,52,49,51,3000",
    "2024-01-03,005930,51,53,50,52,4000",
]


def write(path: Path, *lines: str, encoding: str = "utf-8") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def load(folder: Path, *lines: str, header: str = HEADER, **arguments):
    write(folder / "prices.csv", header, *lines)
    return KrxFiles("prices.csv", **arguments).load(str(folder))


def refusal(folder: Path, *lines: str, header: str = HEADER, **arguments) -> str:
    """The message for a file with these lines; always a single line."""
    with pytest.raises(UserError) as caught:
        load(folder, *lines, header=header, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_table_becomes_bars_sorted_by_code_and_date(tmp_path):
    bars = load(tmp_path, *reversed(GOOD))
    assert bars.codes == ["000660", "005930"]
    assert bars.stock.tolist() == bars.segment.tolist() == [0, 0, 1, 1]
    assert bars.date.astype(str).tolist() == ["2024-01-02", "2024-01-03"] * 2
    assert bars.open.tolist() == [100, 105, 50, 51]
    assert bars.high.tolist() == [110, 112, 52, 53]
    assert bars.low.tolist() == [95, 101, 49, 50]
    assert bars.close.tolist() == [105, 110, 51, 52]
    assert bars.volume.tolist() == [1000, 2000, 3000, 4000]
    assert np.isnan(bars.flow).all()
    assert bars.sector.tolist() == [LASPS13.other] * 4
    assert not bars.synthetic


def test_the_arrays_have_the_types_that_bars_promise(tmp_path):
    bars = load(tmp_path, *GOOD)
    types = {"stock": "int32", "segment": "int32", "date": "datetime64[D]", "sector": "int64"}
    types |= dict.fromkeys(["open", "high", "low", "close", "volume", "flow"], "float64")
    assert {name: str(getattr(bars, name).dtype) for name in types} == types
    assert all(getattr(bars, name).flags.writeable for name in types)


def test_counts_say_what_was_read_and_left_out(tmp_path):
    halts = ["2024-01-04,000660,0,0,0,110,0", "2024-01-02,000020,0,0,0,7,0"]
    bars = load(tmp_path, *GOOD, *halts)
    assert bars.codes == ["000660", "005930"]
    assert bars.counts == {
        "rows_read": 6, "issues_read": 3, "non_trading_rows": 2, "price_breaks": 0, "unknown_sector_issues": 2,
        "unknown_sector_rows": 4, "unknown_flow_rows": 4, "rows": 4,
    }  # fmt: skip


def test_rows_of_unknown_sector_are_dropped_or_refused_if_asked(tmp_path):
    write(tmp_path / "prices.csv", HEADER, *GOOD)
    write(tmp_path / "sectors.csv", "code,sector,valid_from", "005930,electronics,2024-01-03")
    sources = {
        policy: KrxFiles("prices.csv", "sectors.csv", unknown_sector=policy) for policy in ("other", "drop", "refuse")
    }
    assert len(sources["other"].load(str(tmp_path))) == 4
    dropped = sources["drop"].load(str(tmp_path))
    assert (dropped.codes, dropped.date.astype(str).tolist()) == (["005930"], ["2024-01-03"])
    assert dropped.counts["unknown_sector_rows"] == 3
    with pytest.raises(UserError, match=r"tells no sector of 000660, 005930 \(2 issues, 3 rows\); add them"):
        sources["refuse"].load(str(tmp_path))


def test_the_factor_leads_from_adjusted_prices_back_to_those_quoted(tmp_path):
    header = "date,code,open,high,low,close,adj_close,volume"
    bars = load(tmp_path, "2024-01-02,000660,100,110,95,105,52.5,1000", header=header)
    assert (bars.close / bars.factor).tolist() == [105]
    assert bars.open.tolist() == [50]


@pytest.mark.parametrize(
    "header",
    [
        "Date,Code,Open,High,Low,Close,Volume",
        "DATE, CODE ,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "날짜,티커,시가,고가,저가,종가,거래량",
        "날짜,종목코드,시가,고가,저가,종가,거래량",
        "일자,단축코드,시가,고가,저가,종가,거래량",
        "Date,Symbol,Open,High,Low,Close,Volume",
        "date,stock_code,open,high,low,close,volume",
        ",code,open,high,low,close,volume",
    ],
)
def test_english_and_korean_columns_are_known(tmp_path, header):
    assert load(tmp_path, *GOOD, header=header).close.tolist() == [105, 110, 51, 52]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949"])
def test_the_encodings_of_korean_spreadsheets_are_read(tmp_path, encoding):
    header = "날짜,종목코드,시가,고가,저가,종가,거래량"
    path = write(tmp_path / "prices.csv", header, *GOOD, encoding=encoding)
    assert len(KrxFiles(path).load(None)) == 4


@pytest.mark.parametrize("day", ["2024-01-05", "20240105", "2024/01/05", "2024.01.05", "2024-01-05 00:00:00+09:00"])
def test_a_date_keeps_its_local_day(tmp_path, day):
    assert load(tmp_path, f"{day},005930,1,1,1,1,1").date.astype(str).tolist() == ["2024-01-05"]


@pytest.mark.parametrize(
    "name", ["005930.csv", "samsung_005930.csv", "005930_삼성전자.csv", "005930.KS.csv", "20240105_KOSDAQ_005930.csv"]
)
def test_one_file_per_issue_takes_the_code_from_its_name(tmp_path, name):
    write(tmp_path / name, "Date,Open,High,Low,Close,Volume,Change", "2024-01-02,50,52,49,51,3000,0.1")
    assert KrxFiles(name).load(str(tmp_path)).codes == ["005930"]


def test_one_file_per_session_takes_the_day_from_its_name(tmp_path):
    write(tmp_path / "days" / "20240102.csv", "티커,시가,고가,저가,종가,거래량", "005930,50,53,49,51,9")
    pykrx = pd.DataFrame({"티커": ["005930"], "시가": 50, "고가": 53, "저가": 49, "종가": 52, "거래량": 9})
    pykrx.to_parquet(tmp_path / "days" / "20240103.parquet")
    bars = KrxFiles("days").load(str(tmp_path))
    assert bars.date.astype(str).tolist() == ["2024-01-02", "2024-01-03"]
    assert bars.close.tolist() == [51, 52]


def test_a_folder_is_read_with_all_formats_below_it(tmp_path):
    pykrx = pd.DataFrame({"시가": [50], "고가": [52], "저가": [49], "종가": [51], "거래량": [3]})
    pykrx.index = pd.Index(pd.to_datetime(["2024-01-02"]), name="날짜")
    (tmp_path / "all" / "deep").mkdir(parents=True)
    pykrx.to_parquet(tmp_path / "all" / "005930.parquet")
    pykrx.rename_axis(None).to_parquet(tmp_path / "all" / "000660.parquet")
    pykrx.to_csv(tmp_path / "all" / "deep" / "00279K.csv.gz")
    (tmp_path / "all" / "notes.txt").write_text("not a table")
    bars = KrxFiles("all").load(str(tmp_path))
    assert bars.codes == ["000660", "00279K", "005930"]
    assert bars.close.tolist() == [51] * 3


def test_alphanumeric_codes_are_kept_and_the_exchange_suffix_is_dropped(tmp_path):
    rows = [f"2024-01-02,{code},1,1,1,1,1" for code in ("00279K", "Q520057", "005930.KS", "035720.KQ")]
    assert load(tmp_path, *rows).codes == ["00279K", "005930", "035720", "Q520057"]


def test_relative_paths_are_found_below_data_dir_then_below_the_current_directory(tmp_path, monkeypatch):
    here, data = tmp_path / "here", tmp_path / "data"
    write(here / "a.csv", HEADER, GOOD[0])
    monkeypatch.chdir(here)
    assert find_files("a.csv", str(data)) == [here / "a.csv"]
    write(data / "a.csv", HEADER, GOOD[0])
    assert find_files("a.csv", str(data)) == [data / "a.csv"]
    assert find_files("a.csv", None) == [here / "a.csv"]


def test_a_missing_path_names_both_places_and_the_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        KrxFiles("absent.csv").load(str(tmp_path / "data"))
    for part in (str(tmp_path / "absent.csv"), str(tmp_path / "data" / "absent.csv"), "paths.data_dir", "DATA_DIR"):
        assert part in str(caught.value)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no table here.*\*\.parquet"):
        KrxFiles(str(tmp_path)).load(None)


def test_days_without_trading_are_left_out_and_make_no_return(tmp_path):
    rows = [
        "2024-01-02,005930,50,52,49,51,3000",
        "2024-01-03,005930,0,0,0,0,0",  # a holiday in a table of calendar days
        "2024-01-04,005930,0,0,0,51,0",  # a halt as pykrx writes it
        "2024-01-05,005930,51,51,51,51,0",  # a halt as Yahoo writes it
        "2024-01-08,005930,0,0,0,51,70",  # only a block trade off the book
        "2024-01-09,005930,51,53,50,52,4000",
    ]
    bars = load(tmp_path, *rows)
    assert bars.close.tolist() == [51, 52]
    assert bars.counts["non_trading_rows"] == 4
    assert bars.counts["price_breaks"] == 0


@pytest.mark.parametrize(
    ("closes", "segments"),
    [
        ((100, 130.4, 100), [0, 0, 0]),  # +30.4 %, −23 %
        ((100, 130.6, 100), [0, 1, 1]),
        ((100, 69.6, 69.6), [0, 0, 0]),
        ((100, 69.4, 20), [0, 1, 2]),
    ],
)
def test_an_impossible_move_starts_a_new_segment(tmp_path, closes, segments):
    rows = [f"2024-01-0{2 + i},005930,{c},{c},{c},{c},1" for i, c in enumerate(closes)]
    bars = load(tmp_path, *rows)
    assert bars.segment.tolist() == segments
    assert bars.counts["price_breaks"] == segments[-1]


def test_a_break_is_found_across_a_halt_and_not_between_issues(tmp_path):
    rows = [
        "2024-01-02,000660,10,10,10,10,1",
        "2024-01-02,005930,100,100,100,100,1",
        "2024-01-03,005930,0,0,0,50,0",
        "2024-01-04,005930,51,51,51,51,1",
    ]
    bars = load(tmp_path, *rows)
    assert bars.segment.tolist() == [0, 1, 2]
    assert bars.counts["price_breaks"] == 1


def test_max_daily_move_is_the_users(tmp_path):
    rows = ["2024-01-02,005930,10,10,10,10,1", "2024-01-03,005930,16,16,16,16,1"]
    assert load(tmp_path, *rows, max_daily_move=0.7).counts["price_breaks"] == 0


def test_prices_follow_adj_close_and_volume_does_not(tmp_path):
    header = "Date,Code,Open,High,Low,Close,Adj Close,Volume"
    rows = ["2024-01-02,005930,90,110,80,100,50,7", "2024-01-03,005930,46,55,40,50,50,9"]
    bars = load(tmp_path, *rows, header=header)
    assert bars.open.tolist() == [45, 46]
    assert bars.high.tolist() == [55, 55]
    assert bars.low.tolist() == [40, 40]
    assert bars.close.tolist() == [50, 50]
    assert bars.volume.tolist() == [7, 9]
    assert bars.counts["price_breaks"] == 0


def test_files_with_and_without_adj_close_may_stand_together(tmp_path):
    write(tmp_path / "all" / "000660.csv", "date,open,high,low,close,adj_close,volume", "2024-01-02,10,10,10,10,5,1")
    write(tmp_path / "all" / "005930.csv", "date,open,high,low,close,volume", "2024-01-02,10,10,10,10,1")
    assert KrxFiles("all").load(str(tmp_path)).close.tolist() == [5, 10]


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ("2024-01-04,005930,,53,50,52,1", "open", "no number ≥ 0"),
        ("2024-01-04,005930,51,53,-50,52,1", "low", "-50 is no number ≥ 0"),
        ("2024-01-04,005930,51,53,50,inf,1", "close", "inf is no finite number"),
        ("2024-01-04,005930,51,abc,50,52,1", "high", "abc is no finite number"),
        ("2024-01-04,005930,51,53,50,52,", "volume", "no number ≥ 0"),
        ("2024-01-04,005930,51,53,0,52,1", "low", "a price of zero on a day with trading"),
        ("2024-01-04,005930,0,53,50,52,1", "open", "a price of zero on a day with trading"),
        ("2024-01-04,005930,51,49,50,52,1", "high", "below the low"),
        ("2024-13-04,005930,51,53,50,52,1", "date", "2024-13-04 is no date"),
        (",005930,51,53,50,52,1", "date", "no date"),
        ("2024-01-04,5930,51,53,50,52,1", "code", "5930 is a stock code without leading zeros"),
        ("2024-01-04,,51,53,50,52,1", "code", "no stock code"),
    ],
)
def test_a_bad_value_is_refused_with_file_column_row_and_number(tmp_path, row, column, reason):
    message = refusal(tmp_path, *GOOD, row)
    assert f"prices.csv, column {column}, data row 5: " in message
    assert reason in message
    assert "(1 such rows)" in message


def test_all_offenders_are_counted_and_the_first_is_named(tmp_path):
    message = refusal(tmp_path, GOOD[0], "2024-01-03,000660,-1,1,1,1,1", "2024-01-04,000660,-2,1,1,1,1")
    assert "data row 2: -1 " in message
    assert "(2 such rows)" in message


def test_a_refusal_uses_the_files_own_column_name(tmp_path):
    header = "날짜,종목코드,시가,고가,저가,종가,거래량"
    assert "column 종가, data row 1" in refusal(tmp_path, "2024-01-02,005930,1,1,1,-1,1", header=header)


def test_high_below_low_by_rounding_is_accepted(tmp_path):
    assert len(load(tmp_path, "2024-01-02,005930,10000,9999.9,10000,10000,1")) == 1


def test_a_repeated_day_is_refused_also_across_files(tmp_path):
    message = refusal(tmp_path, *GOOD, GOOD[1])
    assert "prices.csv, columns code and date, data row 5: 000660 on 2024-01-03 was there before (1 such" in message
    write(tmp_path / "all" / "a.csv", HEADER, *GOOD)
    write(tmp_path / "all" / "b.csv", HEADER, "2024-01-04,000660,1,1,1,1,1", GOOD[3])
    with pytest.raises(UserError, match=r"b\.csv, columns code and date, data row 2: 005930 on 2024-01-03"):
        KrxFiles("all").load(str(tmp_path))


def test_two_bars_within_one_day_are_refused(tmp_path):
    rows = ["2024-01-02 09:00:00,005930,1,1,1,1,1", "2024-01-02 10:00:00,005930,1,1,1,1,1"]
    assert "data row 2: 005930 on 2024-01-02 was there before" in refusal(tmp_path, *rows)


def test_codes_stored_as_numbers_are_refused(tmp_path):
    frame = pd.DataFrame({"date": ["2024-01-02"], "code": [5930], "open": 1, "high": 1, "low": 1, "close": 1})
    frame.assign(volume=1).to_parquet(tmp_path / "prices.parquet")
    with pytest.raises(UserError, match=r"column code, data row 1: 5930 is a stock code without leading zeros"):
        KrxFiles("prices.parquet").load(str(tmp_path))


def test_a_missing_column_is_named_with_its_known_names_and_what_the_file_has(tmp_path):
    message = refusal(tmp_path, "2024-01-02,005930,1,1,1,1", header="date,code,open,high,low,close")
    assert "no column for volume (known names: volume, 거래량); it has date, code, open, high, low, close" in message


@pytest.mark.parametrize(
    ("name", "header", "missing"),
    [
        ("prices.csv", "date,open,high,low,close,volume", "no column for code"),
        ("5930.csv", "date,open,high,low,close,volume", "no column for code"),
        ("005930_000660.csv", "date,open,high,low,close,volume", "no column for code"),
        ("prices.csv", "code,open,high,low,close,volume", "no column for date"),
    ],
)
def test_code_or_date_in_neither_columns_nor_name_is_refused(tmp_path, name, header, missing):
    write(tmp_path / name, header, "x,1,1,1,1,1")
    with pytest.raises(UserError, match=f"{missing}.*; it has {header.replace(',', ', ')}. Nor does the file's name"):
        KrxFiles(name).load(str(tmp_path))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_an_unreadable_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if name == "a.csv" else b"\x1f\x8b nonsense")
    with pytest.raises(UserError, match=rf"{name}: cannot be read"):
        KrxFiles(name).load(str(tmp_path))


def test_a_table_without_any_trading_is_refused(tmp_path):
    assert "1 rows read, none with trading" in refusal(tmp_path, "2024-01-02,005930,0,0,0,0,0")


def test_the_sector_is_the_one_valid_on_the_day(tmp_path):
    days = ["2019-12-31", "2020-01-01", "2020-12-31", "2021-01-01", "2022-01-01"]
    rows = [f"{day},{code},1,1,1,1,1" for day in days for code in ("000660", "005930")]
    write(
        tmp_path / "sectors.csv", "code,valid_from,valid_to,sector_id", "005930,2021-01-01,2021-12-31,5",
        "005930,2020-01-01,2020-12-31,3", "000660,,2020-12-31,0", "000660,2021-01-01,9999-12-31,-1", "999999,,,7",
    )  # fmt: skip
    bars = load(tmp_path, *rows, sectors="sectors.csv")
    assert bars.sector.tolist() == [0, 0, 0, 12, 12, 12, 3, 3, 5, 12]
    assert bars.counts["unknown_sector_issues"] == 2
    assert bars.counts["unknown_sector_rows"] == 4


@pytest.mark.parametrize(
    ("header", "values", "sectors"),
    [
        ("code,sector", ("4", "0"), [4, 4, 0, 0]),
        ("code,lasps13", ("4", "-1"), [4, 4, 12, 12]),
        ("종목코드,업종명", ("화학", "음식료품"), [7, 7, 9, 9]),
        ("Code,Sector", ("Chemicals", ""), [7, 7, 12, 12]),
        ("종목코드,업종명", ("운수장비", "섬유의복"), [10, 10, 12, 12]),  # names of the older twenty
    ],
)
def test_sectors_may_be_ids_or_names(tmp_path, header, values, sectors):
    write(tmp_path / "s.csv", header, f"000660,{values[0]}", f"005930,{values[1]}")
    assert load(tmp_path, *GOOD, sectors="s.csv").sector.tolist() == sectors


def test_the_older_scheme_reads_its_own_column_only(tmp_path):
    write(tmp_path / "s.csv", "code,lasps13,lasps20", "000660,4,5")
    bars = load(tmp_path, *GOOD, sectors="s.csv", num_sectors=20)
    assert bars.sectors == LASPS20
    assert bars.sector.tolist() == [5, 5, LASPS20.other, LASPS20.other]
    write(tmp_path / "s.csv", "code,lasps13", "000660,4")
    assert "no column for lasps20" in refusal(tmp_path, *GOOD, sectors="s.csv", num_sectors=20)


def test_sectors_of_other_issues_only_leave_all_unknown(tmp_path):
    write(tmp_path / "s.csv", "code,sector", "999999,4")
    assert load(tmp_path, *GOOD, sectors="s.csv").counts["unknown_sector_rows"] == 4


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["000660,,,13"], "data row 1: 13 is no sector id from 0 to 12"),
        (["000660,,,-2"], "data row 1: -2 is no sector id"),
        (["000660,,,0", "005930,,,1.5"], "data row 2: 1.5 is no sector of lasps13"),
        (["000660,,,chemical"], "chemical is no sector of lasps13. Did you mean chemicals?"),
        (["000660,,,005"], "005 is no sector of lasps13"),
        (["660,,,5"], "660 is a stock code without leading zeros"),
        (["000660,2020-99-01,,5"], "column valid_from, data row 1: 2020-99-01 is no date"),
        (["000660,2020-02-01,2020-01-01,5"], "column valid_to, data row 1"),
        (["000660,,,5", "000660,,,6"], "column code, data row 2: 000660 is listed twice"),
        (["000660,2019-01-01,,5", "000660,2020-01-01,,6"], "column code, data row 2: 000660 is listed twice"),
        (["000660,,2019-01-01,5", "000660,,2020-01-01,6"], "column code, data row 2: 000660 is listed twice"),
        (["000660,2020-01-01,,5", "000660,2019-01-01,2020-01-01,6"], "column code, data row 1: 000660 is listed"),
        (["000660,,2020-01-01,5", "000660,2019-01-01,,6"], "column code, data row 2: 000660 is listed twice"),
    ],
)
def test_a_bad_sector_table_is_refused(tmp_path, rows, reason):
    path = write(tmp_path / "s.csv", "code,valid_from,valid_to,sector", *rows)
    with pytest.raises(UserError) as caught:
        read_sectors(Path(path), LASPS13)
    assert reason in str(caught.value)


def test_sectors_must_be_one_file(tmp_path):
    for name in "ab":
        write(tmp_path / "s" / f"{name}.csv", "code,sector", "000660,4")
    assert "holds 2 tables" in refusal(tmp_path, *GOOD, sectors="s")


def test_flow_is_the_sum_of_both_sides_and_unknown_where_no_row_is(tmp_path):
    write(
        tmp_path / "flows.csv", "date,code,foreign_net,inst_net", "2024-01-03,005930,-500,200",
        "2024-01-02,000660,300,", "2024-01-03,000660,,", "2024-01-02,999999,1,1",
    )  # fmt: skip
    bars = load(tmp_path, *GOOD, flows="flows.csv")
    np.testing.assert_array_equal(bars.flow, [300, np.nan, np.nan, -300])
    assert bars.counts["unknown_flow_rows"] == 2


def test_flows_per_issue_as_pykrx_saves_them(tmp_path):
    write(tmp_path / "flows" / "005930.csv", "날짜,기관합계,기타법인,개인,외국인합계,전체", "2024-01-02,20,1,1,-70,0")
    write(tmp_path / "flows" / "000660.csv", "날짜,기관합계", "2024-01-03,30")
    bars = load(tmp_path, *GOOD, flows="flows")
    np.testing.assert_array_equal(bars.flow, [np.nan, 30, -50, np.nan])


def test_flow_in_won_is_divided_by_the_unadjusted_close(tmp_path):
    write(tmp_path / "flows.csv", "date,code,foreign", "2024-01-02,005930,1000")
    header, row = HEADER + ",adj_close", "2024-01-02,005930,90,110,80,100,7,50"
    assert load(tmp_path, row, header=header, flows="flows.csv", flow_unit="won").flow.tolist() == [10]


@pytest.mark.parametrize(("net", "volume"), [(-2e8, 1e9), (2000, 1000)])
def test_flow_in_won_that_claims_to_be_shares_is_refused(tmp_path, net, volume):
    write(tmp_path / "flows.csv", "date,code,foreign", f"2024-01-02,005930,{net}", "2024-01-03,005930,0")
    rows = [f"2024-01-02,005930,1,1,1,1,{volume}", f"2024-01-03,005930,1,1,1,1,{volume}"]
    assert "flow_unit=won" in refusal(tmp_path, *rows, flows="flows.csv")


def test_flows_of_which_half_exceed_the_volume_are_still_shares(tmp_path):
    write(tmp_path / "flows.csv", "date,code,foreign", "2024-01-02,005930,9999", "2024-01-03,005930,5")
    assert load(tmp_path, *GOOD, flows="flows.csv").flow[2:].tolist() == [9999, 5]


def test_flows_without_either_side_and_repeated_flows_are_refused(tmp_path):
    path = write(tmp_path / "flows.csv", "date,code,individual", "2024-01-02,005930,1")
    with pytest.raises(UserError, match="no column for foreign or institution"):
        read_flows([Path(path)])
    path = write(tmp_path / "flows.csv", "date,code,foreign", "2024-01-02,005930,1", "2024-01-02,005930,1")
    with pytest.raises(UserError, match="data row 2: 005930 on 2024-01-02 was there before"):
        read_flows([Path(path)])


@pytest.fixture(scope="module")
def us():
    return UsSample().load(None)


def test_the_us_sample_holds_five_issues_in_one_piece_each(us):
    assert us.codes == ["AAPL", "FB", "GOOG", "IBM", "MSFT"]
    assert np.bincount(us.stock).tolist() == [3270, 196, 2148, 3270, 3270]
    assert (us.segment == us.stock).all()
    assert us.counts == {
        "rows_read": 12154, "issues_read": 5, "non_trading_rows": 0, "price_breaks": 0, "rows": 12154
    }  # fmt: skip
    assert not us.synthetic
    assert "bokeh" not in sys.modules


def test_the_us_sample_is_adjusted_for_splits(us):
    # Apple closed at 130.31 on its first day, 9,616,100 shares; adj_close 4.186663 in the file
    assert us.close[0] == pytest.approx(4.186663, abs=1e-6)
    assert us.volume[0] * us.close[0] == pytest.approx(9_616_100 * 130.31)
    split = us.date[:3270].searchsorted(np.datetime64("2005-02-28"))  # two for one
    assert abs(us.close[split] / us.close[split - 1] - 1) < 0.05
    assert (us.low <= us.close).all()
    assert (us.close <= us.high).all()


def test_the_us_sample_has_known_sectors_and_no_flow(us):
    names = [us.sectors.english[us.sector[us.stock == stock][0]] for stock in range(5)]
    assert names == ["hardware", "software & internet", "software & internet", "hardware", "software & internet"]
    assert us.sectors.english[us.sectors.other] == "other"
    assert np.isnan(us.flow).all()


# rows, issues, rows without trading, price breaks, issues of unknown sector
REAL = {
    "kospi200_2015_2020.parquet": (184_622, 147, 1_161, 15, 1),
    "kospi_kosdaq_2023_2025.parquet": (674_976, 1_892, 20_373, 15, 559),
    "themes_2015_2019.parquet": (101_273, 98, 23, 0, 11),
    "etf_and_large_caps_1996_2023.parquet": (84_732, 30, 196, 2, 28),
    "dirty_calendar": (33_110, 12, 10_842, 0, 1),
}


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs the real bars: set DATA_DIR")
@pytest.mark.parametrize("name", REAL)
def test_real_files_give_the_counts_of_their_description(name):
    path = os.path.join("krx", name)
    if not os.path.exists(os.path.join(os.environ["DATA_DIR"], path)):
        pytest.skip(f"no {path} in DATA_DIR")
    bars = KrxFiles(path, sectors=os.path.join("krx", "sectors_2018.csv")).load(os.environ["DATA_DIR"])
    keys = ("rows_read", "issues_read", "non_trading_rows", "price_breaks", "unknown_sector_issues")
    assert tuple(bars.counts[key] for key in keys) == REAL[name]
    assert len(bars) == bars.counts["rows_read"] - bars.counts["non_trading_rows"]
    assert len(bars.segments()) == len(bars.codes) + bars.counts["price_breaks"]
    inside = np.diff(bars.segment) == 0
    assert (np.diff(bars.date)[inside] > np.timedelta64(0, "D")).all()
    assert (np.abs(np.diff(bars.close) / bars.close[:-1])[inside] <= 0.305).all()
    assert min(bars.open.min(), bars.high.min(), bars.low.min(), bars.close.min(), bars.volume.min()) > 0


def test_read_bars_keeps_the_rows_without_trading(tmp_path):
    path = write(tmp_path / "005930.csv", "Date,Open,High,Low,Close,Volume", "2024-01-03,0,0,0,5,0")
    table = read_bars([Path(path)])
    assert table.columns.tolist() == ["code", "date", "open", "high", "low", "close", "volume"]
    assert table.close.tolist() == [5]
