"""Attribute encoders: their size, their output, and what must not change it."""

import io

import pytest
import torch
from torch import nn

from common.errors import UserError
from kfashion.networks import AttentionEncoder, AttributeEncoder, FieldHeads, ResidualEncoder
from kfashion.records import FIELDS, MISSING, MULTI
from tests.kfashion.codes import SIZES, random_codes

VARIANTS = {
    "mlp": lambda: AttributeEncoder(SIZES, 32, 64),
    "residual, batch norm": lambda: ResidualEncoder(SIZES, 32, 64, 5, "silu", "batch"),
    "residual, layer norm": lambda: ResidualEncoder(SIZES, 32, 64, 3, "relu", "layer"),
    "attention": lambda: AttentionEncoder(SIZES, 128, 4, 2, 64),
}
every_variant = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)


def encoder(make=VARIANTS["mlp"]):
    torch.manual_seed(0)
    return make().eval()


def test_the_default_has_the_size_of_the_original_on_its_vocabularies():
    sizes = {
        "category": 4,
        "style": 4,
        "silhouette": 8,
        "material": 22,
        "detail": 38,
    }  # one row for unknown and padding
    assert sum(each.numel() for each in AttributeEncoder(sizes).parameters()) == 305_408
    ours = {field: size + 2 for field, size in sizes.items()}  # padding and missing have rows of their own
    assert sum(each.numel() for each in AttributeEncoder(ours).parameters()) == 306_688


def test_the_default_consists_of_embeddings_linear_layers_activation_and_dropout():
    leaves = {type(each) for each in AttributeEncoder(SIZES).modules() if not list(each.children())}
    assert leaves == {nn.Embedding, nn.EmbeddingBag, nn.Linear, nn.ReLU, nn.Dropout}


@every_variant
def test_a_record_becomes_512_numbers_of_length_1(make):
    vectors = encoder(make)(random_codes(3))
    assert vectors.shape == (3, 512)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("kind", [AttributeEncoder, ResidualEncoder, AttentionEncoder])
def test_other_output_sizes_are_refused(kind):
    with pytest.raises(UserError, match="output_dim=256"):
        kind(SIZES, output_dim=256)


@every_variant
def test_order_and_padding_of_a_multi_field_do_not_matter(make):
    model, codes = encoder(make), random_codes(8)
    shuffled = codes | {field: torch.nn.functional.pad(codes[field].flip(1), (2, 3)) for field in MULTI}
    assert (model(codes) - model(shuffled)).abs().max() < 1e-6


@every_variant
def test_a_record_alone_gives_what_it_gives_in_a_batch(make):
    model, codes = encoder(make), random_codes(8)
    alone = torch.cat([model({field: codes[field][row : row + 1] for field in FIELDS}) for row in range(8)])
    assert (model(codes) - alone).abs().max() < 1e-6


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_changes_the_output(field):
    model, codes = encoder(), random_codes(4)
    missing = torch.zeros_like(codes[field])
    missing.view(4, -1)[:, 0] = MISSING
    assert (model(codes) - model(codes | {field: missing})).abs().max(1).values.min() > 1e-3


def test_a_multi_field_is_the_mean_of_its_tokens_and_an_empty_one_the_vector_of_missing():
    model = encoder()
    table = model.fields.tables["material"].weight
    codes = random_codes(2) | {"material": torch.tensor([[5, 0, 9, 7], [MISSING, 0, 0, 0]])}
    found = model.fields(codes)[FIELDS.index("material")]
    torch.testing.assert_close(found[0], (table[5] + table[9] + table[7]) / 3)
    torch.testing.assert_close(found[1], table[MISSING])


def test_padding_never_trains():
    model = encoder()
    model(random_codes(8)).sum().backward()
    for table in model.fields.tables.values():
        assert not table.weight[0].any()
        assert not table.weight.grad[0].any()


def test_an_encoder_survives_saving():
    model, file = encoder(), io.BytesIO()
    torch.save(model.state_dict(), file)
    other = VARIANTS["mlp"]().eval()
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert torch.equal(model(random_codes(2)), other(random_codes(2)))


def test_heads_give_one_logit_for_each_token_of_each_field():
    logits = FieldHeads(SIZES)(encoder()(random_codes(3)))
    assert {field: each.shape for field, each in logits.items()} == {field: (3, SIZES[field]) for field in FIELDS}
