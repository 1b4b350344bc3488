"""The demo hands on to train.py and evaluate.py."""

from types import SimpleNamespace

import pytest

from common.config import compose
from common.schema import validate
from kfashion import demo


@pytest.fixture
def lines(monkeypatch):
    """The programs that were started, with their words; training ends with code 0, judging with 3."""
    started = []

    def run(words, check):
        started.append((words[1].rpartition("/")[2], words[2:]))
        return SimpleNamespace(returncode=3 * (len(started) == 2))

    monkeypatch.setattr(demo.subprocess, "run", run)
    return started


def test_the_demo_trains_judges_and_ends_as_the_first_step_that_fails(lines):
    assert demo.main(["--fast", "--samples", "7", "seed=1", "paths.output_dir=x"]) == 3
    (first, training), (second, judging) = lines
    assert (first, second) == ("train.py", "evaluate.py")
    assert {*demo.QUICK, "seed=1", "paths.output_dir=x", "name=kfashion_demo"} <= set(training)
    assert judging == ["run=latest:kfashion_demo", "analysis.num_queries=7", "paths.output_dir=x"]


def test_twenty_records_are_drawn_unless_others_are_asked_for(lines):
    demo.main([])
    assert lines[0][1] == ["name=kfashion_demo", "experiment=kfashion_stage2"]
    assert "analysis.num_queries=20" in lines[1][1]


@pytest.mark.parametrize("number", ["0", "101", "-3", "ten"])
def test_more_than_a_hundred_records_are_refused(lines, capsys, number):
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--samples", number])
    assert not lines


@pytest.mark.slow
def test_the_quick_settings_are_valid():
    validate(compose("kfashion_stage2", demo.QUICK))
