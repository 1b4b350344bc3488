"""Choose the epochs of a collected run's units and write the model to use.

python -m redheart.auto_sweetspot --checkpoint-dir FOLDER --output FOLDER [--thresholds FILE]
"""

import argparse
from pathlib import Path

DESCRIPTION = """Analyse a collected run, accept the epochs that are sure enough, give all other groups the epoch of
their lowest loss, and write the combination if it beats the best single epoch on the select split by one standard
error; else write that epoch."""
EPILOG = """writes combined/, decision.json and report.md. Exit code: 0 written, whichever of the two; 2 a mistake:
one line says which."""


def main(words: list[str] | None = None) -> int:
    """Run the command; exit code 0. A user's mistake ends the program with one line and code 2."""
    arguments = _parser().parse_args(words)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from redheart.auto import decide, report
    from redheart.contributions import run_of
    from redheart.sweetspots import Thresholds

    try:
        thresholds = Thresholds.load(arguments.thresholds) if arguments.thresholds else Thresholds()
        decision = decide(run_of(arguments.checkpoint_dir), thresholds, arguments.output, arguments.data_dir)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be written ({error.strerror or error}).")
    print(report(decision))
    print(f"written to {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m redheart.auto_sweetspot", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--checkpoint-dir", type=Path, required=True, metavar="FOLDER", help="a collected run, or its units/")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the model and the decision go")
    add("--thresholds", type=Path, metavar="FILE", help="a calibrated_thresholds.json")
    add("--data-dir", metavar="FOLDER", help="where the run's data lie today")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
