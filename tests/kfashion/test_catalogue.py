import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from kfashion.catalogue import Reading, read_catalogue
from kfashion.labels import main
from tests.kfashion.label_files import block, example, write


def read(root, **settings):
    return read_catalogue(root, root.parent / "cache", Reading(**settings))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "labels"


def test_the_worked_example_becomes_two_rows(root):
    write(root / "레트로", "900001", example())
    top, bottom = read(root).items.to_pylist()
    assert top == {
        "item_id": "900001_top_0", "part": "상의", "bbox": [150, 100, 280, 300], "crop": [122, 70, 458, 430],
        "category": "레트로", "style": ["레트로", "로맨틱"], "silhouette": "루즈", "material": ["시폰", "레이스"],
        "detail": ["러플", "리본"], "image": "레트로/900001.jpg", "look": "DEMO_012", "label": "레트로/900001.json",
    }  # fmt: skip
    assert (bottom["item_id"], bottom["bbox"]) == ("900001_bottom_0", [181, 391, 200, 360])


@pytest.mark.parametrize(
    "place",
    [
        "Training/라벨링데이터/레트로/900001.jpg",
        "Training/라벨링데이터/레트로/DEMO_012_03.jpg",
        "Training/라벨링데이터/레트로/images/900001.jpg",
        "Training/라벨링데이터/images/DEMO_012_03.jpg",
        "Training/원천데이터/원천_1/레트로/900001.jpg",
        "원천데이터/레트로/900001.png",
    ],
)
def test_images_are_found_where_they_may_lie(root, place):
    write(root / "Training/라벨링데이터/레트로", "900001", example(), None)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (600, 800)).save(root / place)
    assert set(read(root).items["image"].to_pylist()) == {place}


def test_the_number_is_tried_before_the_name_at_the_source(root):
    write(root / "레트로", "900001", example())
    Image.new("RGB", (600, 800)).save(root / "레트로/DEMO_012_03.jpg")
    assert read(root).items["image"][0].as_py() == "레트로/900001.jpg"


def test_an_image_name_does_not_lead_out_of_the_folder(root):
    document = example()
    document["이미지 정보"]["이미지 파일명"] = "../secret.jpg"
    write(root / "레트로", "900001", document, None)
    Image.new("RGB", (600, 800)).save(root / "secret.jpg")
    with pytest.raises(UserError, match="missing_image 2"):
        read(root)


def test_a_decomposed_folder_name_is_the_same_category(root):
    write(root / unicodedata.normalize("NFD", "레트로"), "900001", example())
    assert read(root, folders=("레트로",)).items["category"][0].as_py() == "레트로"


def test_the_same_number_in_two_folders_gives_different_ids(root):
    for folder in ("레트로", "로맨틱"):
        write(root / folder, "900001", example())
    write(root / "로맨틱", "900002", example())
    ids = read(root).items["item_id"].to_pylist()
    assert ids[::2] == ["레트로-900001_top_0", "로맨틱-900001_top_0", "900002_top_0"]


def test_ids_come_from_the_digits_of_the_name_or_from_all_of_it(root):
    write(root / "레트로", "IMG_000123", example())
    write(root / "레트로", "demo", example())
    assert read(root).items["item_id"].to_pylist()[::2] == ["000123_top_0", "demo_top_0"]


def test_a_cut_off_image_is_left_out(root):
    write(root / "레트로", "900001", example())
    path = write(root / "레트로", "900002", example()).with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:-200])
    catalogue = read(root)
    assert (len(catalogue), catalogue.reasons) == (2, {"bad_image": 2})
    assert set(catalogue.excluded["label"].to_pylist()) == {"레트로/900002.json"}


def test_a_turned_image_is_seen_upright(root):
    path = write(root / "레트로", "900001", example(), None)
    turned = Image.new("RGB", (800, 600), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(path.with_suffix(".jpg"), exif=exif)
    catalogue = read(root)
    assert catalogue.items["crop"][0].as_py() == [122, 70, 458, 430]
    assert catalogue.crop(0).size == (336, 360)


@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_kind_of_image_becomes_rgb(root, mode):
    path = write(root / "레트로", "900001", example(), None)
    suffix = ".jpg" if mode in ("L", "CMYK") else ".png"
    Image.new(mode, (600, 800)).save(path.with_suffix(suffix))
    crop = read(root).crop(0)
    assert crop.mode == "RGB"
    if mode in ("RGBA", "LA"):  # fully transparent
        assert np.asarray(crop).min() == 255


def test_the_folder_without_styles_is_read_on_demand_only(root):
    write(root / "레트로", "900001", example())
    write(root / "기타", "900002", example())
    assert read(root).reasons == {"other_folder": 1}
    assert set(read(root, include_other=True).items["category"].to_pylist()) == {"레트로", "기타"}


def test_a_folder_named_like_a_label_and_a_link_that_leads_back_are_passed_over(root):
    write(root / "레트로", "900001", example())
    (root / "레트로/5.json").mkdir()
    (root / "레트로/6.json").symlink_to("nowhere")
    (root / "레트로/back").symlink_to("..")
    catalogue = read(root)
    assert (len(catalogue), catalogue.reasons) == (2, {})


def test_a_file_that_cannot_be_opened_is_left_out(root, monkeypatch):
    write(root / "레트로", "900001", example())
    write(root / "레트로", "900002", example())

    def refused(path, *args):
        if str(path).endswith("900002.json"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *args)

    monkeypatch.setattr("kfashion.catalogue.open", refused, raising=False)
    assert read(root).reasons == {"unreadable": 1}


def test_several_records_of_a_file_are_numbered_on(root):
    write(root / "레트로", "900001", [example(), example()])
    ids = ["900001_top_0", "900001_bottom_0", "900001_top_1", "900001_bottom_1"]
    assert read(root).items["item_id"].to_pylist() == ids


@pytest.mark.parametrize("folders", [None, ("로맨틱",)])
def test_nothing_found_is_an_error_that_names_the_folders(root, folders):
    (root / "레트로").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        read(root, folders=folders)
    assert str(root) in str(error.value)
    assert "found: 레트로" in str(error.value)
    assert ("searched: 로맨틱" if folders else "searched: all") in str(error.value)


def test_tables_are_read_again_when_a_label_changes(root):
    path = write(root / "레트로", "900001", example())
    assert len(read(root)) == 2
    document = example()
    for name in ("렉트좌표", "폴리곤좌표", "라벨링"):
        block(document, name)["하의"] = [{}]
    write(root / "레트로", "900001", document)
    assert path.exists()
    assert len(read(root)) == 1


def test_the_command_writes_garments_exclusions_and_vocabulary(root, capsys):
    write(root / "레트로", "900001", example())
    write(root / "로맨틱", "900002", b"{")
    out = root.parent / "out.json"
    assert main([str(root), "--json", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert [item["item_id"] for item in report["items"]] == ["900001_top_0", "900001_bottom_0"]
    assert report["items"][1]["detail"] == []
    assert report["excluded"] == {"bad_json": 1}
    assert report["excluded_items"][0]["label"] == "로맨틱/900002.json"
    assert report["vocab"]["material"] == ["레이스", "시폰", "우븐"]
    assert "left out: bad_json 1" in capsys.readouterr().out


def test_the_command_tells_words_that_are_none_of_k_fashion(root, capsys):
    document = example()
    block(document, "라벨링")["상의"][0]["소재"] = ["시폰", "시퐁"]
    write(root / "레트로", "900001", document)
    assert main([str(root), "--json", str(root.parent / "out.json")]) == 0
    assert "no material of K-Fashion: 시퐁\n" in capsys.readouterr().out
    assert json.loads((root.parent / "out.json").read_text(encoding="utf-8"))["unusual"] == {"material": ["시퐁"]}


def test_the_command_tells_how_files_depart_from_the_published_form(root, capsys):
    write(root / "레트로", "900001", example())
    write(root / "레트로", "900002", b"{")
    assert main([str(root), "--schema"]) == 0
    first, *others = [line for line in capsys.readouterr().out.splitlines() if "form" in line]
    assert first == "0 of 2 label files keep to K-Fashion's form"
    assert "form: 1 × no JSON, for example 레트로/900002.json" in others


@pytest.mark.parametrize("padding", ["-0.1", "nan", "wide"])
def test_a_padding_that_is_no_share_is_refused(root, capsys, padding):
    with pytest.raises(SystemExit, match="2"):
        main([str(root), "--padding", padding])


def test_the_command_tells_a_mistake_in_one_line(root, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(root)])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_labels_can_be_read_without_images(root):
    write(root / "레트로", "900001", example(), None)
    catalogue = read(root, need_images=False)
    assert catalogue.items["crop"][0].as_py() == [122, 70, 458, 430]
