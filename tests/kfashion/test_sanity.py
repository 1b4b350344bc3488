"""The sanity check finds encoders that are broken in the way each of its checks is about."""

import pytest
import torch

from kfashion.networks import AttributeEncoder
from kfashion.records import FIELDS
from kfashion.sanity import _batch_consistency, _field_changes, _gradients, _mask_invariance, _overfitting, result_line
from tests.kfashion.codes import SIZES, random_batch


class Deaf(AttributeEncoder):
    """Hears nothing of the material."""

    def forward(self, codes):
        return super().forward(codes | {"material": torch.full_like(codes["material"], 3)})


class First(AttributeEncoder):
    """Reads the first detail only."""

    def forward(self, codes):
        return super().forward(codes | {"detail": codes["detail"][:, :1]})


class Crowd(AttributeEncoder):
    """Says of a record how it differs from the others of the batch."""

    def forward(self, codes):
        vectors = super().forward(codes)
        return vectors - 0.5 * vectors.mean(0)


class Constant(AttributeEncoder):
    """Says the same of every record."""

    def forward(self, codes):
        return super().forward({field: torch.full_like(code, 3) for field, code in codes.items()})


def made(kind):
    torch.manual_seed(0)
    return kind(SIZES, 32, 64)


def checks(network):
    """Names of the checks that fail."""
    batch = random_batch(24)
    found = [
        *(_field_changes(network, batch.codes, field) for field in FIELDS),
        _mask_invariance(network, batch.codes), _batch_consistency(network, batch.codes), *_gradients(network, batch),
        *_overfitting(network, batch),
    ]  # fmt: skip
    return [each["check"] for each in found if not each["passed"]]


@pytest.mark.parametrize(
    ("kind", "failing"),
    [
        (AttributeEncoder, []),
        (Deaf, ["material changes the output"]),
        (First, ["order and padding change nothing"]),
        (Crowd, ["alone as in a batch"]),
    ],
)
def test_each_kind_of_broken_encoder_fails_its_check(kind, failing):
    assert checks(made(kind)) == failing


def test_an_encoder_that_hears_nothing_learns_nothing_by_heart():
    failing = checks(made(Constant))
    assert {f"{field} changes the output" for field in FIELDS} <= set(failing)
    assert "24 records by heart: Hit@1 above 0.95" in failing


def test_a_tensor_without_gradient_is_named():
    network = made(AttributeEncoder)
    network.unused = torch.nn.Linear(1, 1)
    assert "every tensor has a gradient (unused.weight has none)" in checks(network)


def test_pass_is_printed_only_if_nothing_failed():
    assert result_line([]) == "SANITY CHECK PASS"
    assert result_line(["length 1", "512 numbers"]) == "SANITY CHECK FAIL: length 1, 512 numbers"
