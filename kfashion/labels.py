"""What a folder of K-Fashion label files holds.

python -m kfashion.labels DIR [--json OUT] [--schema]
"""

import argparse
import tempfile
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code, 0. A user's mistake ends the program with one line and code 2."""
    options = _parser().parse_args(arguments)
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError
    from kfashion.catalogue import Reading, label_files, read_catalogue
    from kfashion.inspection import schema_lines, screen_lines, write_report

    folders = None if options.folders is None else tuple(options.folders)
    extra = tuple(options.extra_fields)
    reading = Reading(options.category, options.padding, folders, options.other, extra, not options.no_images)
    try:
        if options.schema:
            print("\n".join(schema_lines(label_files(options.root, reading))))
        with tempfile.TemporaryDirectory() as scratch:
            catalogue = read_catalogue(options.root, Path(scratch), reading)
        if options.json is not None:
            write_report(catalogue, options.json)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: cannot be read or written ({error.strerror or error}).")
    print("\n".join(screen_lines(catalogue)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kfashion.labels", description="The garments of a folder of K-Fashion label files."
    )
    add = parser.add_argument
    add("root", type=Path, metavar="DIR", help="holds folders, named by category, of label files")
    add("--json", type=Path, metavar="OUT", help="write every garment, what was left out, and the vocabulary")
    add("--folders", nargs="+", metavar="NAME", help="read these only")
    add("--category", choices=("folder", "garment"), default="folder", help="what category is (default: folder)")
    add(
        "--padding", type=_padding, default=0.1, metavar="SHARE", help="of the box around it in the crop (default: 0.1)"
    )
    add("--other", action="store_true", help="read the folder 기타 too, whose images have no style")
    add("--extra-fields", nargs="+", default=[], metavar="KEY", help="keys of the label that become details, e.g. 색상")
    add("--schema", action="store_true", help="tell first which files depart from K-Fashion's published form, and how")
    add("--no-images", action="store_true", help="do not look for images; crops are by the sizes that labels tell")
    return parser


def _padding(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: need a share from 0 to 1")
    return share


if __name__ == "__main__":
    raise SystemExit(main())
