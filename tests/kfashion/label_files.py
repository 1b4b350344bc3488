"""Label files and images for tests, after the worked example of the specification."""

import copy
import json
from pathlib import Path

from PIL import Image

EXAMPLE = {
    "이미지 정보": {
        "이미지 식별자": 900001, "이미지 높이": 800, "이미지 너비": 600, "이미지 파일명": "DEMO_012_03.jpg",
    },
    "데이터셋 정보": {
        "파일 생성일자": "2020-09-01 10:00:00", "파일 번호": 900001, "파일 이름": "DEMO_012_03.jpg",
        "데이터셋 상세설명": {
            "렉트좌표": {
                "아우터": [{}], "원피스": [{}],
                "하의": [{"X좌표": 180.5, "Y좌표": 390.5, "가로": 200, "세로": 360}],
                "상의": [{"X좌표": 149.5, "Y좌표": 99.5, "가로": 280, "세로": 300}],
            },
            "폴리곤좌표": {
                "아우터": [{}], "원피스": [{}],
                "하의": [{
                    "X좌표1": 190.0, "Y좌표1": 391.0, "X좌표2": 381.0, "Y좌표2": 395.2, "X좌표3": 360.0,
                    "Y좌표3": 751.0, "X좌표4": 181.0, "Y좌표4": 748.0,
                }],
                "상의": [{
                    "X좌표1": 200.0, "Y좌표1": 100.0, "X좌표2": 430.0, "Y좌표2": 160.0, "X좌표10": 0.0,
                    "X좌표3": 410.0, "Y좌표3": 400.0, "X좌표4": 150.0, "Y좌표4": 380.0,
                }],
            },
            "라벨링": {
                "스타일": [{"스타일": "레트로", "서브스타일": "로맨틱"}],
                "아우터": [{}], "원피스": [{}],
                "상의": [{
                    "카테고리": "블라우스", "색상": "화이트", "기장": "노말", "소매기장": "긴팔", "옷깃": "보우칼라",
                    "핏": "루즈", "소재": ["시폰", "레이스"], "디테일": ["러플", "리본"], "프린트": ["도트"],
                }],
                "하의": [{
                    "카테고리": "스커트", "색상": "네이비", "기장": "미디", "핏": "노멀", "소재": ["우븐"],
                    "프린트": ["무지"],
                }],
            },
        },
    },
}  # fmt: skip


def example() -> dict:
    return copy.deepcopy(EXAMPLE)


def block(document: dict, name: str) -> dict:
    """렉트좌표, 폴리곤좌표 or 라벨링 of a document, to be changed."""
    return document["데이터셋 정보"]["데이터셋 상세설명"][name]


def raw(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def write(folder: Path, name: str, document: object, size: tuple[int, int] | None = (600, 800)) -> Path:
    """A label file, and beside it an image of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(document if isinstance(document, bytes) else raw(document))
    if size is not None:
        Image.new("RGB", size, "red").save(path.with_suffix(".jpg"))
    return path
