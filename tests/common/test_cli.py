import errno

import pytest
from omegaconf import OmegaConf

from common.cli import explain, fail, run_task
from common.errors import UserError, nearest


def test_a_full_disk_is_one_line_that_says_what_to_do(capsys):
    def task(config):
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/x/checkpoints/last.ckpt")

    with pytest.raises(SystemExit) as stopped:
        run_task(task, OmegaConf.create())
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "outputs/x/checkpoints/last.ckpt: no space left while writing" in printed
    assert "resume=" in printed


def test_other_errors_of_the_system_are_bugs_and_travel():
    def task(config):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    with pytest.raises(PermissionError):
        run_task(task, OmegaConf.create())


def test_a_message_is_one_line_whatever_it_holds(capsys):
    with pytest.raises(SystemExit):
        fail("first\n   second")
    assert capsys.readouterr().err == "error: first second\n"


def test_an_unknown_exception_of_hydra_keeps_its_first_line():
    assert explain(UserError("what\nand more")) == "what"


def test_the_nearest_name_is_offered_only_when_it_is_near():
    assert nearest("hiden_dim", ["hidden_dim", "num_heads"]) == " Did you mean hidden_dim?"
    assert nearest("zzz", ["hidden_dim", "num_heads"]) == ""
