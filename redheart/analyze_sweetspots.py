"""Propose an epoch for every unit of a collected run, from its records alone.

python -m redheart.analyze_sweetspots --checkpoint-dir FOLDER --output FOLDER [--thresholds FILE]
"""

import argparse
import sys
from pathlib import Path

DESCRIPTION = """Propose the epoch each unit's parameters should be taken from. Reads metrics.jsonl in the folder, and
row_losses.npz and the newest manifest if they are there; opens no weights."""
EPILOG = """writes module_metrics.json, analysis_report.md and visualizations/. Exit code: 0 written; 2 the records
cannot be trusted: one line says why, and nothing is written."""


def main(words: list[str] | None = None) -> int:
    """Run the command; exit code 0. A user's mistake ends the program with one line and code 2."""
    arguments = _parser().parse_args(words)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from redheart.records import read_records
    from redheart.sweetspots import Thresholds, analyse, write

    try:
        thresholds = Thresholds.load(arguments.thresholds) if arguments.thresholds else Thresholds()
        analysis = analyse(read_records(arguments.checkpoint_dir), thresholds)
        write(analysis, arguments.output, str(arguments.checkpoint_dir))
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be written ({error.strerror or error}).")
    for line in analysis.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for name, unit in analysis.units.items():
        pick = unit.recommendation
        print(f"{name:<20} epoch {pick.epoch if pick.epoch is not None else '–':>4}   {pick.confidence:4.0%}")
    print(f"written to {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    name = "python -m redheart.analyze_sweetspots"
    parser = argparse.ArgumentParser(prog=name, description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--checkpoint-dir", type=Path, required=True, metavar="FOLDER", help="where metrics.jsonl lies")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the results go")
    add("--thresholds", type=Path, metavar="FILE", help="a calibrated_thresholds.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
