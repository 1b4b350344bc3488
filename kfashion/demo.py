"""The whole of kfashion in one line: train both stages, judge them, and draw what records bring up.

python -m kfashion.demo [--quick] [--samples 20] [WORD …]
"""

import argparse
import subprocess
import sys

MOST_SAMPLES = 100
NAME = "kfashion_demo"  # a run of its own: the service and `latest:kfashion_stage2` do not take it
QUICK = ("data.num_images=200", "data.num_designs=40", "encoder@data.encoder=kfashion/pixels", "optim.lr=1e-3")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code of the step that failed, else 0."""
    options = _parser().parse_args(arguments)
    from common.config import ROOT

    training = [f"name={NAME}", "experiment=kfashion_stage2", *(QUICK if options.quick else ()), *options.words]
    places = [word for word in options.words if word.startswith("paths.")]
    judging = [f"run=latest:{NAME}", f"analysis.num_queries={options.samples}", *places]
    for program, words in (("train.py", training), ("evaluate.py", judging)):
        print(f"python {program} {' '.join(words)}", flush=True)
        done = subprocess.run([sys.executable, str(ROOT / program), *words], check=False)
        if done.returncode:
            return done.returncode
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kfashion.demo", description="Train both stages on drawn garments, judge them, search."
    )
    add = parser.add_argument
    add(
        "--quick",
        "--fast",
        action="store_true",
        help="200 pictures and an image encoder without training: about a minute",
    )
    add("--samples", type=_samples, default=20, metavar="N", help=f"records searched with, 1 to {MOST_SAMPLES} (20)")
    add("words", nargs="*", metavar="WORD", help="anything train.py takes, such as data=kfashion/flat seed=1")
    return parser


def _samples(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SAMPLES:
        raise argparse.ArgumentTypeError(f"{text}: need 1 to {MOST_SAMPLES}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
