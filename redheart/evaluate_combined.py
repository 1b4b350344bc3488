"""Judge a combined model against plain baselines on the test split.

python -m redheart.evaluate_combined --model FOLDER [--checkpoint-dir FOLDER] [--output FOLDER]
"""

import argparse
from pathlib import Path

DESCRIPTION = """Judge a combined model on the test split, against single epochs, averages, searches and random mixes of
the same run. The look is logged in the run."""
EPILOG = """writes evaluation.json, evaluation.md and figures/. Exit code: 0 written, whatever the verdict; 2 a mistake:
one line says which."""


def main(words: list[str] | None = None) -> int:
    """Run the command; exit code 0. A user's mistake ends the program with one line and code 2."""
    arguments = _parser().parse_args(words)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from redheart.compare import judge_model

    output = arguments.output or arguments.model / "evaluation"
    try:
        text = judge_model(arguments.model, output, arguments.checkpoint_dir, arguments.primary, arguments.data_dir)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be written ({error.strerror or error}).")
    print(text)
    print(f"written to {output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    name = "python -m redheart.evaluate_combined"
    parser = argparse.ArgumentParser(prog=name, description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="what combine_modules wrote")
    add("--checkpoint-dir", type=Path, metavar="FOLDER", help="the run, or its units/; default: that of the model")
    add("--output", type=Path, metavar="FOLDER", help="where the results go; default: FOLDER/evaluation")
    add("--primary", choices=("loss", "score"), default="loss", help="what the verdict rests on")
    add("--data-dir", metavar="FOLDER", help="where the run's data lie today")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
