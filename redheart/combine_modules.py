"""Write one model whose units come from different epochs.

python -m redheart.combine_modules --backbone F --heads F --analyzers F --dsp F --adv-emotion F … --output FOLDER
"""

import argparse
from pathlib import Path

DESCRIPTION = """Write one model whose units come from different epochs. F is the folder of an epoch, the unit's
.safetensors file in it, or, with --checkpoint-dir, an epoch (44), several to average (30,32,34; with weights
30*2,32*1), or 20:40@0.3, which is 0.7 x epoch 20 + 0.3 x epoch 40."""
EPILOG = """writes model/<unit>.safetensors and manifest.json with what each unit is made of. Units that depend on one
another must come from one source. Exit code: 0 written; 2 refused: one line says why, and nothing is changed."""
UNITS = {
    "backbone": "backbone", "heads": "heads", "analyzers": "neural_analyzers", "dsp": "dsp_kalman",
    "adv_emotion": "adv_emotion", "adv_bentham": "adv_bentham", "adv_regret": "adv_regret", "adv_surd": "adv_surd",
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run the command; exit code 0. A user's mistake ends the program with one line and code 2."""
    arguments = _parser().parse_args(words)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from redheart.combine import Source, combine, report

    given = {unit: getattr(arguments, flag) for flag, unit in UNITS.items()}
    try:
        recipe = {unit: Source.parse(text, unit) for unit, text in given.items() if text is not None}
        filling = Source.parse(arguments.fill_from, "the rest") if arguments.fill_from else None
        allowed = arguments.allow_dependent_mix, arguments.allow_cross_run, arguments.overwrite
        manifest = combine(arguments.checkpoint_dir, recipe, arguments.output, filling, *allowed)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be written ({error.strerror or error}).")
    print(report(manifest))
    print(f"written to {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    name = "python -m redheart.combine_modules"
    parser = argparse.ArgumentParser(prog=name, description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    for flag, unit in UNITS.items():
        add(f"--{flag.replace('_', '-')}", metavar="F", help=f"where {unit} is taken from")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the model goes")
    add("--checkpoint-dir", type=Path, metavar="FOLDER", help="where epoch_0002, … lie: the units/ of a run")
    add("--fill-from", metavar="F", help="where units without a flag are taken from")
    add("--allow-dependent-mix", action="store_true", help="units that depend on one another may differ in source")
    add("--allow-cross-run", action="store_true", help="whole groups may come from different runs")
    add("--overwrite", action="store_true", help="replace another model in the output folder")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
