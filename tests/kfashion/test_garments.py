import json
import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfashion.garments import REASONS, Excluded, Garment, clean, crop_box, fit_box, parse_label, words
from tests.kfashion.label_files import block, example, raw


def parsed(document, **settings):
    return list(parse_label(raw(document), "레트로", **settings))


def reasons(document):
    return [each.reason for each in parsed(document) if isinstance(each, Excluded)]


def test_the_worked_example_gives_its_two_garments():
    top, bottom = parsed(example())
    assert (top.part, top.box) == ("상의", (150, 100, 280, 300))
    assert top.fields == {
        "category": "레트로", "style": ["레트로", "로맨틱"], "silhouette": "루즈", "material": ["시폰", "레이스"],
        "detail": ["러플", "리본"],
    }  # fmt: skip
    assert (bottom.part, bottom.box) == ("하의", (181, 391, 200, 360))
    assert (bottom.fields["silhouette"], bottom.fields["material"], bottom.fields["detail"]) == ("노멀", ["우븐"], [])
    assert top.look == "DEMO_012"


def test_the_worked_example_gives_its_crop():
    assert crop_box((150, 100, 280, 300), (600, 800), 0.1) == (122, 70, 458, 430)


def test_category_may_be_the_garments_own_or_its_part():
    document = example()
    del block(document, "라벨링")["하의"][0]["카테고리"]
    assert [each.fields["category"] for each in parsed(document, category_source="garment")] == ["블라우스", "하의"]


def test_extra_fields_become_details():
    top, _ = parsed(example(), extra_fields=["색상", "프린트"])
    assert top.fields["detail"] == ["러플", "리본", "색상:화이트", "프린트:도트"]


def test_points_are_numbered_not_sorted_as_text():
    polygon = {f"{axis}좌표{n}": float(n * 3) for n in range(1, 13) for axis in "XY"}
    polygon["X좌표2"], polygon["Y좌표11"] = 500.0, 700.0
    del polygon["Y좌표10"]  # so the tenth does not count
    polygon["X좌표10"] = 900.0
    document = example()
    block(document, "폴리곤좌표")["상의"] = [polygon]
    assert parsed(document)[0].box == (3, 3, 497, 697)


@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(rng):
    document = example()
    for part in ("상의", "하의"):
        entries = list(block(document, "폴리곤좌표")[part][0].items())
        rng.shuffle(entries)
        block(document, "폴리곤좌표")[part] = [dict(entries)]
    assert parsed(document) == parsed(example())


@pytest.mark.parametrize(
    "polygon",
    [
        {},
        {"X좌표1": 1.0, "Y좌표1": 1.0, "X좌표2": 200.0, "Y좌표2": 300.0},
        {f"{axis}좌표{n}": 7.0 if axis == "X" else 10.0 * n for n in range(1, 5) for axis in "XY"},
        {"X좌표1": None, "Y좌표1": "a", "X좌표2": "nan", "Y좌표2": 3},
    ],
    ids=["none", "two points", "a line", "no numbers"],
)
def test_a_polygon_that_is_none_gives_way_to_the_rectangle(polygon):
    document = example()
    block(document, "폴리곤좌표")["상의"] = [polygon]
    assert parsed(document)[0].box == (149.5, 99.5, 280, 300)


@pytest.mark.parametrize("rectangle", [{}, {"X좌표": 1, "Y좌표": 1, "가로": 1, "세로": 1}, {"X좌표": 1, "Y좌표": 1}])
def test_without_polygon_and_rectangle_a_garment_is_left_out(rectangle):
    document = example()
    block(document, "폴리곤좌표")["상의"], block(document, "렉트좌표")["상의"] = [{}], [rectangle]
    found = parsed(document)
    assert (found[0].reason, found[0].part, found[1].part) == ("no_bbox", "상의", "하의")


@pytest.mark.parametrize("name", ["렉트좌표", "폴리곤좌표", "라벨링"])
def test_lists_of_different_length_are_misaligned(name):
    document = example()
    block(document, name)["상의"] *= 2
    assert reasons(document) == ["misaligned"]


def test_instances_of_a_part_keep_together():
    document = example()
    for name in ("렉트좌표", "폴리곤좌표", "라벨링"):
        block(document, name)["상의"] += block(document, name)["하의"]
        block(document, name)["하의"] = [{}]
    first, second = parsed(document)
    assert (first.fields["silhouette"], first.box[0]) == ("루즈", 150)
    assert (second.fields["silhouette"], second.box[0], second.part) == ("노멀", 181, "상의")


def test_a_shape_without_attributes_is_left_out():
    document = example()
    block(document, "라벨링")["하의"] = [{}]
    assert reasons(document) == ["unlabelled"]


@pytest.mark.parametrize("absent", [[], [{}], None])
def test_no_part_is_no_garment(absent):
    document = example()
    for name in ("렉트좌표", "폴리곤좌표", "라벨링"):
        for part in ("상의", "하의"):
            block(document, name)[part] = absent
    assert reasons(document) == ["no_garment"]


def test_any_field_may_be_empty():
    document = example()
    block(document, "라벨링")["상의"] = [{"색상": "블랙"}]
    block(document, "라벨링")["스타일"] = [{}]
    top = parsed(document)[0]
    assert top.fields == {"category": "레트로", "style": [], "silhouette": None, "material": [], "detail": []}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("시폰", ["시폰"]),
        (["시폰", "시폰", "레이스", "시폰"], ["시폰", "레이스"]),
        (["", None, "  "], []),
        (None, []),
        ("하운즈\u00a0투스", ["하운즈 투스"]),
        (unicodedata.normalize("NFD", "레깅스"), ["래깅스"]),
        (["원 숄더", "홀토넥", "테일러칼라", "노말"], ["원숄더", "홀터넥", "테일러드칼라", "노멀"]),
        (5, ["5"]),
    ],
)
def test_tokens_are_lists_of_clean_different_words(value, expected):
    assert words(value) == expected


def test_a_list_where_one_string_is_expected_gives_its_first():
    document = example()
    block(document, "라벨링")["상의"][0]["핏"] = ["", "루즈", "타이트"]
    assert parsed(document)[0].fields["silhouette"] == "루즈"


@given(st.text(max_size=20))
def test_cleaning_twice_is_cleaning_once(text):
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: unicodedata.normalize("NFD", text).encode(),
        lambda text: json.dumps(json.loads(unicodedata.normalize("NFD", text))).encode(),
        lambda text: f"[{text}]".encode(),
        lambda text: f'{{"annotations": [{text}]}}'.encode(),
    ],
    ids=["byte order mark", "decomposed", "decomposed and escaped", "list", "annotations"],
)
def test_other_forms_of_a_file_give_the_same_garments(change):
    text = raw(example()).decode()
    assert list(parse_label(change(text), "레트로")) == list(parse_label(text.encode(), "레트로"))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000])
def test_what_is_no_json_is_left_out(text):
    (only,) = parse_label(text, "레트로")
    assert only.reason == "bad_json"


@pytest.mark.parametrize("document", [{"a": 1}, [3], "text", None])
def test_a_record_of_neither_format_is_left_out(document):
    assert "no_label" in reasons(document)


FLAT = {
    "image_name": "a.jpg", "category": "레트로", "style": ["레트로"], "silhouette": "루즈", "material": "시폰",
    "detail": None, "polygon": [[10, 20], [110, 20], [110, 220]],
}  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [
        {"polygon": [[10, 20], [110, 20], [110, 220]]},
        {"polygon": None, "segmentation": None, "bbox": [10, 20, 100, 200]},
        {"polygon": [10, 20, 110, 20, 110, 220]},
        {"polygon": [[10, 20, 110, 20, 110, 220]]},
        {"polygon": [{"x": 10, "y": 20}, {"x": 110, "y": 20}, {"x": 110, "y": 220}]},
        {"polygon": {"X좌표1": 10, "Y좌표1": 20, "X좌표2": 110, "Y좌표2": 20, "X좌표3": 110, "Y좌표3": 220}},
    ],
)
def test_flat_records_may_write_their_shape_in_any_usual_way(shape):
    (garment,) = parsed(FLAT | shape)
    fields = {"category": "레트로", "style": ["레트로"], "silhouette": "루즈", "material": ["시폰"], "detail": []}
    assert garment == Garment(None, (10, 20, 100, 200), None, "a.jpg", fields, flat=True)


def test_annotations_take_the_name_of_their_image():
    annotation = {key: value for key, value in FLAT.items() if key != "image_name"} | {"image_id": 7}
    document = {"images": [{"id": 7, "file_name": "b.jpg", "width": 300, "height": 400}], "annotations": [annotation]}
    (garment,) = parsed(document)
    assert (garment.image_name, garment.label_size) == ("b.jpg", (300, 400))


def test_a_flat_record_without_shape_is_left_out():
    assert reasons(FLAT | {"polygon": []}) == ["no_bbox"]


def test_boxes_are_scaled_to_the_image():
    assert fit_box((100, 200, 50, 80), (600, 800), (300, 400)) == (50, 100, 25, 40)


def test_a_box_is_clipped_to_the_image():
    assert fit_box((-10, 700, 100, 200), None, (600, 800)) == (0, 700, 90, 100)


@pytest.mark.parametrize(("size", "reason"), [((600, 790), "size_mismatch"), ((800, 600), "size_mismatch")])
def test_another_aspect_ratio_is_a_mismatch(size, reason):
    with pytest.raises(Excluded) as error:
        fit_box((10, 10, 100, 100), (600, 800), size)
    assert error.value.reason == reason


def test_an_aspect_ratio_within_a_hundredth_is_none():
    assert fit_box((10, 10, 100, 100), (600, 800), (600, 793))[2] == 100


@pytest.mark.parametrize("box", [(595, 10, 100, 100), (10, 10, 7.9, 100), (700, 10, 100, 100)])
def test_less_than_eight_pixels_in_the_image_are_too_few(box):
    with pytest.raises(Excluded) as error:
        fit_box(box, None, (600, 800))
    assert error.value.reason == "too_small"


@given(
    st.tuples(*[st.floats(0, 500)] * 2, *[st.floats(9, 400)] * 2), st.floats(0, 1),
    st.tuples(st.integers(520, 900), st.integers(520, 900)),
)  # fmt: skip
def test_a_crop_holds_its_box_and_lies_in_the_image(box, padding, size):
    left, top, width, height = fit_box(box, None, size)
    crop = crop_box((left, top, width, height), size, padding)
    assert 0 <= crop[0] <= left
    assert 0 <= crop[1] <= top
    assert left + width <= crop[2] + 1e-6 <= size[0] + 1e-6
    assert top + height <= crop[3] + 1e-6 <= size[1] + 1e-6


def test_random_bytes_never_crash_the_reader():
    rng, text = random.Random(0), raw(example())
    for _ in range(300):
        broken = bytearray(text)
        for _ in range(3):
            broken[rng.randrange(len(broken))] = rng.randrange(32, 127)
        found = list(parse_label(bytes(broken), "레트로"))
        assert found
        assert all(isinstance(each, Garment) or each.reason in REASONS for each in found)
