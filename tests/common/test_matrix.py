"""A matrix does every run once, whatever happens to some of them."""

import json
import multiprocessing
import signal
import time

import pytest

from common import matrix
from common.errors import ChecksFailed, UserError
from common.recorder import GracefulStop
from common.rundir import Run
from tests import processes
from tests.common.batches import SEEDS, matrix_config, work
from tests.toy import toy_config


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """What `work` replaces is put back."""
    monkeypatch.setattr(matrix, "options", lambda group: ["toy"])
    monkeypatch.setattr(matrix, "compose", lambda experiment, words: toy_config("elsewhere"))


def plan(tmp_path, *blocks, **settings):
    config = matrix_config(tmp_path, *blocks, **settings)
    return matrix.plan(matrix.checked_matrix(config, []), config)


def run_of(tmp_path, name):
    return Run(tmp_path / "batch" / name)


def test_runs_come_in_the_order_of_the_blocks_the_last_key_fastest(tmp_path):
    cells = plan(
        tmp_path,
        {"experiment": ["toy"], "seed": [3, 1], "module.loss_scale": [1, 2]},
        {"experiment": ["toy"], "seed": [9]},
    )
    assert [cell.name for cell in cells] == ["toy-s3-x1", "toy-s3-x2", "toy-s1-x1", "toy-s1-x2", "toy-s9-x1"]
    assert cells[1].settings == {"experiment": "toy", "seed": 3, "module.loss_scale": 2}
    assert cells[1].config.seed == 3
    assert cells[1].config.paths.output_dir == str(tmp_path)


def test_a_run_that_is_listed_twice_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"matrix.blocks: \{'experiment': 'toy', 'seed': 0\} and .* one and the same run"
    ):
        plan(tmp_path, SEEDS, SEEDS)


def test_runs_can_be_left_out(tmp_path):
    assert [cell.name for cell in plan(tmp_path, SEEDS, select="without_seed_1")] == ["toy-s0-x1"]


@pytest.mark.parametrize(
    ("block", "settings", "message"),
    [
        ({"experiment": ["tyo"]}, {}, "experiment=tyo: no such option. Did you mean toy?"),
        ({"experiment": ["toy"], "loss": ["toi"]}, {}, "loss=toi: no such option. Did you mean toy?"),
        ({"experiment": ["toy"], "sed": [1]}, {}, "matrix.blocks: sed: unknown key. Did you mean seed?"),
        ({"experiment": ["toy"], "model.hiden_dim": [1]}, {}, "model.hiden_dim: unknown key. Did you mean hidden_dim?"),
        ({"experiment": ["toy"], "modl.hidden_dim": [1]}, {}, "matrix.blocks: modl.hidden_dim: unknown key."),
        ({"experiment": ["toy"], "phase.epochs": [0]}, {}, "phase.epochs=0: input should be greater"),
        ({"experiment": ["toy"], "seed": [0, -1]}, {}, "seed=-1: input should be greater"),
        (
            {"experiment": ["toy"], "phase.epochs": [1, 0], "seed": [0, 1]},
            {},
            "phase.epochs=0: input should be greater",
        ),
        ({"seed": [1]}, {}, "matrix.blocks.0: name the experiments under `experiment`."),
        ({"experiment": []}, {}, "matrix.blocks.0.experiment: list should have at least 1 item"),
        ({"experiment": ["toy"]}, {"workers": 0}, "matrix.workers: input should be greater than or equal to 1"),
        ({"experiment": ["toy"]}, {"worker_count": 2}, "matrix.worker_count: unexpected keyword"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(tmp_path, block, settings, message):
    with pytest.raises(UserError) as error:
        work(matrix_config(tmp_path, block, **settings))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["phase.epochs=2", "trainer=gpu", "+model.x=1"])
def test_a_word_that_would_change_no_run_is_refused(tmp_path, word):
    with pytest.raises(UserError) as error:
        work(matrix_config(tmp_path, SEEDS), typed=(word,))
    assert str(error.value) == f"{word}: not for a matrix; to set it in every run use \"matrix.overrides=['{word}']\"."


@pytest.mark.slow
def test_every_run_is_done_once(tmp_path):
    config = matrix_config(tmp_path, SEEDS, collect="count")
    assert work(config) == 0
    runs = [run_of(tmp_path, f"toy-s{seed}-x1") for seed in (0, 1)]
    assert [run.status["status"] for run in runs] == ["done", "done"]
    assert [run.config.seed for run in runs] == [0, 1]
    assert (tmp_path / "batch" / "counts").read_text().split() == ["1", "2", "2"]
    lines = (tmp_path / "batch" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == ["toy-s0-x1", "toy-s1-x1"]
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.path.rglob("*")}
    assert work(config) == 0
    assert before == {path: path.stat().st_mtime_ns for run in runs for path in run.path.rglob("*")}


def test_a_run_that_another_process_has_just_finished_is_left_as_it_is(tmp_path, monkeypatch):
    config = matrix_config(tmp_path, {"experiment": ["toy"]})
    work(config)
    run = run_of(tmp_path, "toy-s0-x1")
    before = {path: path.stat().st_mtime_ns for path in run.path.iterdir() if path.suffix in (".json", ".csv")}
    monkeypatch.setattr(matrix, "_ended", lambda run: False)
    work(config)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_that_another_process_holds_is_skipped(tmp_path):
    held = run_of(tmp_path, "toy-s0-x1")
    with held.held():
        assert work(matrix_config(tmp_path, SEEDS)) == 1
    assert not held.finished
    assert run_of(tmp_path, "toy-s1-x1").finished


@pytest.mark.slow
def test_a_failing_run_stops_no_other_and_is_tried_again_next_time(tmp_path, capsys):
    config = matrix_config(tmp_path, {"experiment": ["toy"], "data.data_seed": [-5], "module.loss_scale": [2]}, SEEDS)
    with pytest.raises(ChecksFailed, match=r"1 of 3 runs failed: toy-s0-x2; see their run.log"):
        work(config)
    assert [run_of(tmp_path, f"toy-s{seed}-x1").finished for seed in (0, 1)] == [True, True]
    failed = run_of(tmp_path, "toy-s0-x2")
    assert failed.status["status"] == "failed"
    assert "Traceback" in (failed.path / "run.log").read_text()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("[1/3] toy-s0-x2: failed: ")
    assert out[1].startswith("[2/3] toy-s0-x1: val/loss ")
    with pytest.raises(ChecksFailed):
        work(config)
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(tmp_path, capsys):
    config = matrix_config(tmp_path, {"experiment": ["toy"], "module.loss_scale": [float("inf"), 1.0]})
    assert work(config) == 0
    assert run_of(tmp_path, "toy-s0-xinf").status["status"] == "diverged"
    assert run_of(tmp_path, "toy-s0-x1").finished
    assert work(config) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_signal_between_two_runs_ends_the_batch(tmp_path):
    with pytest.raises(SystemExit) as error:
        work(matrix_config(tmp_path, SEEDS, collect="interrupt"))
    assert error.value.code == 143
    assert run_of(tmp_path, "toy-s0-x1").finished
    assert not run_of(tmp_path, "toy-s1-x1").path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGKILL", -9)])
def test_an_interrupted_batch_continues_where_it_was(tmp_path, name, code):
    whole, stopped = (matrix_config(tmp_path / each, SEEDS) for each in ("whole", "stopped"))
    assert processes.run(work, whole, 2) == 0
    assert processes.run(work, stopped, 2, env={"TOY_SIGNAL": f"12:{name}"}) == code  # in the second epoch
    assert not run_of(tmp_path / "stopped", "toy-s0-x1").finished
    assert processes.run(work, stopped, 2) == 0
    for seed in (0, 1):
        mine, theirs = (run_of(tmp_path / each, f"toy-s{seed}-x1") for each in ("stopped", "whole"))
        assert (mine.path / "metrics.csv").read_bytes() == (theirs.path / "metrics.csv").read_bytes()
        assert mine.summary["objective"] == theirs.summary["objective"]


@pytest.mark.slow
def test_an_interrupted_run_is_not_continued_on_other_data(tmp_path):
    config = matrix_config(tmp_path, {"experiment": ["toy"]})
    assert processes.run(work, config, 2, env={"TOY_SIGNAL": "12:SIGTERM"}) == 143
    run = run_of(tmp_path, "toy-s0-x1")
    written = run.config
    written.facts.fingerprint = "of yesterday"
    run.write_config(written, [])
    with pytest.raises(ChecksFailed):
        work(config)
    assert "the data has changed since the run began" in run.status["error"]


@pytest.mark.slow
def test_two_processes_on_one_batch_share_its_runs(tmp_path):
    config = matrix_config(tmp_path, {"experiment": ["toy"], "seed": list(range(6))})
    context = multiprocessing.get_context("forkserver")
    both = [context.Process(target=work, args=(config, 2)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    pids = set()
    for seed in range(6):
        run = run_of(tmp_path, f"toy-s{seed}-x1")
        assert run.finished
        assert (run.path / "run.log").read_text().count("epoch 1/2") == 1
        pids.add(run.status["pid"])
    assert pids <= {process.pid for process in both}


@pytest.mark.slow
def test_workers_share_the_runs_and_the_cores(tmp_path):
    config = matrix_config(tmp_path, {"experiment": ["toy"], "seed": list(range(4))}, workers=2, collect="count")
    assert processes.run(work, config, 8) == 0
    runs = [run_of(tmp_path, f"toy-s{seed}-x1") for seed in range(4)]
    assert all(run.finished for run in runs)
    assert len({run.environment["num_threads"] for run in runs}) == 1
    again = matrix_config(tmp_path, {"experiment": ["toy"], "seed": [9]}, workers=2)
    assert processes.run(work, again) == 0  # a single run has the threads it would have had among others
    assert run_of(tmp_path, "toy-s9-x1").environment["num_threads"] == runs[0].environment["num_threads"]


@pytest.mark.slow
def test_only_who_trained_a_run_tells_of_it(tmp_path, capsys, monkeypatch):
    config = matrix_config(tmp_path, SEEDS, collect="count")
    assert processes.run(work, matrix_config(tmp_path, {"experiment": ["toy"]})) == 0
    ended = matrix._ended
    monkeypatch.setattr(matrix, "_ended", lambda run: ended(run) and "s0" not in run.path.name)  # finished meanwhile
    work(config)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["toy-s1-x1:"]


@pytest.mark.slow
def test_every_worker_can_have_loaders(tmp_path):
    block = {"experiment": ["toy"], "seed": list(range(2)), "data._target_": ["tests.common.batches.LoadedToy"]}
    assert processes.run(work, matrix_config(tmp_path, block, workers=2, collect="wait_for_the_other")) == 0
    statuses = [run_of(tmp_path, f"toy-s{seed}-x1").status for seed in range(2)]
    assert [status["status"] for status in statuses] == ["done"] * 2
    assert len({status["pid"] for status in statuses}) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGKILL", -9)])
def test_workers_end_with_the_first_process_and_leave_runs_that_continue(tmp_path, name, code):
    long = {"experiment": ["toy"], "seed": [1], "phase.epochs": [100_000]}
    config = matrix_config(tmp_path, {"experiment": ["toy"]}, long, workers=2, collect="end_beside_the_other")
    assert processes.run(work, config, env={"TOY_END": name}) == code
    run = run_of(tmp_path, "toy-s1-x1")
    for _ in range(600):
        if run.status["status"] != "running":
            break
        time.sleep(0.1)
    assert (run.status["status"], run.status["signal"]) == ("interrupted", "SIGTERM")
    assert run.last.is_file()


@pytest.mark.parametrize(("before", "after"), [(None, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_worker_that_got_a_signal_itself_needs_no_second(before, after):
    watched, held = multiprocessing.Pipe(duplex=False)
    held.close()
    with GracefulStop() as stop:
        stop.fitting, stop.signal = True, before
        matrix._end_with(watched, stop)
        assert stop.signal == after
