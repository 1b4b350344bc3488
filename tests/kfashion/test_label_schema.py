import pytest

from kfashion.label_schema import departures
from tests.kfashion.label_files import block, example, raw


def found(document, number="900001"):
    return list(departures(raw(document), number))


def regular():
    """The worked example without its unpaired coordinate."""
    document = example()
    del block(document, "폴리곤좌표")["상의"][0]["X좌표10"]
    return document


def test_the_worked_example_departs_in_its_unpaired_coordinate_alone():
    assert found(example()) == ["폴리곤좌표: an X without its Y, or a Y without its X"]
    assert found(regular()) == []


def test_keys_of_a_garment_may_be_missing_and_a_style_empty():
    document = regular()
    block(document, "라벨링")["상의"] = [{"색상": "블랙"}]
    block(document, "라벨링")["스타일"] = [{}]
    assert found(document) == []


CHANGES = {
    "이미지 정보: no object": lambda d: d.pop("이미지 정보"),
    "이미지 정보: 이미지 식별자 is no integer": lambda d: d["이미지 정보"].update({"이미지 식별자": "900001"}),
    "이미지 정보: 이미지 식별자 is not the number of the file": lambda d: d["이미지 정보"].update({"이미지 식별자": 7}),
    "이미지 정보: 이미지 높이 is no positive integer": lambda d: d["이미지 정보"].update({"이미지 높이": 0}),
    "이미지 정보: 이미지 파일명 is no text": lambda d: d["이미지 정보"].update({"이미지 파일명": ""}),
    "데이터셋 정보: 파일 번호 is no integer": lambda d: d["데이터셋 정보"].update({"파일 번호": True}),
    "데이터셋 정보: 파일 생성일자 is no time YYYY-MM-DD HH:MM:SS": (
        lambda d: d["데이터셋 정보"].update({"파일 생성일자": "2020-09-31 10:00:00"})
    ),
    "라벨링: 신발 is no part": lambda d: block(d, "라벨링").update({"신발": [{}]}),
    "렉트좌표: 아우터 is no list of objects (of an absent part, [{}])": (
        lambda d: block(d, "렉트좌표").update(아우터=[])
    ),
    "상의: rectangles, polygons and attributes differ in number": lambda d: block(d, "라벨링")["상의"].append({}),
    "렉트좌표: 가로 is not above 0": lambda d: block(d, "렉트좌표")["상의"][0].update(가로=0),
    "렉트좌표: Y좌표 is no number": lambda d: block(d, "렉트좌표")["상의"][0].update(Y좌표="99.5"),
    "렉트좌표: keys beyond X좌표, Y좌표, 가로, 세로": lambda d: block(d, "렉트좌표")["상의"][0].update(깊이=1),
    "폴리곤좌표: a key that is no X좌표n or Y좌표n": lambda d: block(d, "폴리곤좌표")["상의"][0].update(X좌표0=1),
    "폴리곤좌표: points are not numbered from 1 on": (
        lambda d: block(d, "폴리곤좌표")["상의"][0].update(X좌표9=1.0, Y좌표9=1.0)
    ),
    "라벨링: 소재 is no list of texts": lambda d: block(d, "라벨링")["상의"][0].update(소재="시폰"),
    "라벨링: 핏 is no text": lambda d: block(d, "라벨링")["상의"][0].update(핏=["루즈"]),
    "라벨링: 무늬 is no field": lambda d: block(d, "라벨링")["상의"][0].update(무늬="도트"),
    '스타일: "레트로풍" is no style': lambda d: block(d, "라벨링")["스타일"][0].update(스타일="레트로풍"),
    "스타일: no list of objects": lambda d: block(d, "라벨링").pop("스타일"),
}  # fmt: skip


@pytest.mark.parametrize("departure", CHANGES)
def test_every_departure_is_told_by_its_name(departure):
    document = regular()
    CHANGES[departure](document)
    assert found(document) == [departure]


def test_two_points_are_too_few():
    document = regular()
    block(document, "폴리곤좌표")["하의"] = [{f"{axis}좌표{n}": 1.5 * n for n in (1, 2) for axis in "XY"}]
    assert found(document) == ["폴리곤좌표: fewer than 3 points"]


@pytest.mark.parametrize(("content", "departure"), [(b"{", "no JSON"), (b"[]", "top level: no object")])
def test_what_is_no_label_at_all_is_told(content, departure):
    assert list(departures(content, "1")) == [departure]
