"""Which commands of a NAND trace break which rule.

python -m nandseq.check TRACE --profile NAME|FILE.yaml [--set KEY=VALUE …] [--json OUT] [--csv OUT]
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

SHIPPED = ", ".join(sorted(path.stem for path in Path(__file__).with_name("profiles").glob("*.yaml")))
DESCRIPTION = """Judge every command of a NAND trace: CSV, JSONL (either may be gzipped) or Parquet, of any length.
A trace that is not in order of time is sorted, with a warning, if it fits in memory."""
EPILOG = """exit code: 0 no violation; 1 violations; 2 the trace or the profile cannot be read: one line says why, and
nothing is written."""


def main(words: list[str] | None = None) -> int:
    """Run the command; the exit code, 0 or 1. A user's mistake ends the program with one line and code 2."""
    arguments = _parser().parse_args(words)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from nandseq.findings import check_trace, configured, screen_lines

    try:
        profile = configured(arguments.profile, arguments.set)
        findings = check_trace(
            arguments.trace, profile, arguments.json, arguments.csv, arguments.show, arguments.skip_bad,
            arguments.time_unit, arguments.figures is not None,
        )  # fmt: skip
        if arguments.figures is not None:
            findings.map.save_figures(arguments.figures, arguments.trace.name)
        if arguments.save_state is not None:
            findings.state.save(arguments.save_state)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be written ({error.strerror or error}).")
    for line in findings.warnings:
        print(f"warning: {line}", file=sys.stderr)
    with suppress(BrokenPipeError):  # `| head` reads no more
        print("\n".join(screen_lines(findings, arguments.trace, max(arguments.show, 0))), flush=True)
    return int(findings.num_violations > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nandseq.check", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("trace", type=Path)
    add("--profile", required=True, metavar="NAME|FILE.yaml", help=f"the device: {SHIPPED}, or a file")
    change = "change a key of the profile, for example initial_state=unknown; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=change)
    add("--json", type=Path, metavar="OUT", help="write the summary and every violation")
    add("--csv", type=Path, metavar="OUT", help="write every violation as a table")
    add("--show", type=int, default=10, metavar="N", help="violations to print (default: 10)")
    add("--skip-bad", action="store_true", help="leave out rows that cannot be read, and count them")
    units = ("ns", "us", "ms", "s")
    add("--time-unit", choices=units, default="ns", help="of a time column whose name says none (default: ns)")
    state = "write the state of the blocks after the trace; to go on from it: --set initial_state=OUT.npz"
    add("--save-state", type=Path, metavar="OUT.npz", help=state)
    add("--figures", type=Path, metavar="FOLDER", help="draw where and when blocks were used")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
