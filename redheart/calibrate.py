"""Fit the thresholds of the sweet-spot analysis to three or more runs.

python -m redheart.calibrate --runs FOLDER FOLDER FOLDER … --output FOLDER [--trials N]
"""

import argparse
from pathlib import Path

DESCRIPTION = """Fit the thresholds of the sweet-spot analysis to collected runs that differ in their seed, and score
them on each run in turn, left out of the fit. The test split is not read."""
EPILOG = """writes calibrated_thresholds.json, the defaults where there are fewer than three runs, and report.md. Exit
code: 0 written; 2 a mistake: one line says which."""


def main(words: list[str] | None = None) -> int:
    """Run the command; exit code 0. A user's mistake ends the program with one line and code 2."""
    arguments = _parser().parse_args(words)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from redheart.calibration import write_thresholds
    from redheart.contributions import run_of

    try:
        runs = [run_of(folder) for folder in arguments.runs]
        write_thresholds(runs, arguments.output, arguments.data_dir, arguments.trials)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be written ({error.strerror or error}).")
    print((arguments.output / "report.md").read_text(encoding="utf-8"))
    print(f"written to {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m redheart.calibrate", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", required=True, metavar="FOLDER", help="collected runs of one experiment")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the thresholds go")
    add("--trials", type=int, default=60, metavar="N", help="Optuna's trials for each fit (60)")
    add("--data-dir", metavar="FOLDER", help="where the runs' data lie today")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
