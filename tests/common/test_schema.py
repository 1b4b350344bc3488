import pytest
from omegaconf import OmegaConf

from common.errors import UserError
from common.schema import validate
from tests.toy import ToyData, ToyNetwork, toy_config


def check(tmp_path, **changes):
    config = toy_config(tmp_path)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    validate(config)


def test_the_toy_config_is_valid_before_and_after_facts_are_known(tmp_path):
    assert check(tmp_path) is None
    assert check(tmp_path, facts={"num_inputs": 4}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, r"sed: unknown key\. Did you mean seed\?"),
        ({"seed": -1}, r"seed=-1: input should be greater than or equal to 0"),
        ({"seed": "x"}, r"seed='x': input should be a valid integer"),
        ({"parents": "maybe"}, r"parents='maybe': input should be 'auto' or 'never'"),
        ({"phase__epoch": 3}, r"phase\.epoch: unknown key\. Did you mean epochs\?"),
        ({"phase__epochs": 0}, r"phase\.epochs=0: input should be greater than or equal to 1"),
        ({"phase__patience": 0}, r"phase\.patience=0: input should be greater"),
        ({"model__hiden_dim": 3}, r"model\.hiden_dim: unknown key\. Did you mean hidden_dim\?"),
        ({"model__hidden_dim": "wide"}, r"model\.hidden_dim='wide': input should be a valid integer"),
        ({"optim__learning_rate": 1.0}, r"optim\.learning_rate: unknown key"),
        ({"optim__lr": "fast"}, r"optim\.lr='fast'"),
        ({"model___target_": "tests.toy.ToyNetwrk"}, r"model\._target_=tests\.toy\.ToyNetwrk: cannot be imported"),
        ({"data__batch_size": "???"}, r"data\.batch_size: has no default; pass data\.batch_size=…"),
        ({"callbacks__recorder__mode": "least"}, r"callbacks\.recorder\.mode='least': input should be 'min' or 'max'"),
        ({"callbacks__recorder__every_n_steps": 0}, r"callbacks\.recorder\.every_n_steps=0"),
    ],
)
def test_a_mistake_is_named_with_key_value_and_remedy(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        check(tmp_path, **changes)


def test_a_value_taken_from_the_data_is_checked_once_it_is_known(tmp_path):
    with pytest.raises(UserError, match=r"model\.num_inputs='four'"):
        check(tmp_path, facts={"num_inputs": "four"})


def test_a_fact_that_the_data_does_not_have_is_named(tmp_path):
    message = r"model\.num_inputs=\$\{facts\.num_inputs\}: there is no such key or fact of the data"
    with pytest.raises(UserError, match=message):
        check(tmp_path, facts={"size": 4})


def test_a_network_for_another_task_than_the_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyData, "task", "sorting", raising=False)
    assert check(tmp_path) is None  # this network does not say what it is for
    monkeypatch.setattr(ToyNetwork, "task", "sorting", raising=False)
    assert check(tmp_path) is None
    monkeypatch.setattr(ToyNetwork, "task", "counting")
    with pytest.raises(UserError, match="model: ToyNetwork is for counting, ToyData for sorting; choose another model"):
        check(tmp_path)


def test_a_missing_argument_is_named(tmp_path):
    config = toy_config(tmp_path)
    del config.data.batch_size
    with pytest.raises(UserError, match=r"data\.batch_size: missing; tests\.toy\.ToyData needs it"):
        validate(config)
