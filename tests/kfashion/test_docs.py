"""The sizes in the documentation are those of the code."""

import re
from pathlib import Path

import torch
from torch import nn

from kfashion.networks import AttributeEncoder
from kfashion.records import FIELDS, MULTI
from tests.kfashion.codes import random_codes

PAGE = Path(__file__).parents[2] / "docs" / "kfashion.md"


def test_the_diagram_has_the_sizes_of_the_default_encoder():
    text = PAGE.read_text(encoding="utf-8")
    diagram = text.partition("```text\n")[2].partition("```")[0]
    rows = dict(re.findall(r"^(\w+) .*?(\d+ × \d+)", diagram, re.MULTILINE))
    tables = {field: tuple(map(int, rows[field].split(" × "))) for field in FIELDS}
    model = AttributeEncoder({field: size for field, (size, _) in tables.items()})
    assert {field: tuple(each.weight.shape) for field, each in model.fields.tables.items()} == tables
    linear = [(each.in_features, each.out_features) for each in model.modules() if isinstance(each, nn.Linear)]
    assert [tuple(map(int, each)) for each in re.findall(r"Linear (\d+) → (\d+)", diagram)] == linear
    dropout = next(each.p for each in model.modules() if isinstance(each, nn.Dropout))
    assert f"Dropout {dropout}" in diagram
    assert f"{sum(each.numel() for each in model.parameters()):,} parameters" in text
    codes = random_codes(2, sizes={field: size for field, (size, _) in tables.items()})
    vectors = model.fields(codes)
    for field, vector in zip(FIELDS, vectors, strict=True):
        kind = "mean" if field in MULTI else "lookup"
        shape = f"(B, {vector.shape[1]})"
        assert re.search(rf"^{field} .*{kind}.*{re.escape(shape)}", diagram, re.MULTILINE), field
    assert f"(B, {torch.cat(vectors, 1).shape[1]})" in diagram
    assert f"(B, {model(codes).shape[1]})" in diagram
