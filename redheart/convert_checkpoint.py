"""Turn a .pt or .ckpt file into a checkpoint of units.

python -m redheart.convert_checkpoint --run RUN --checkpoint FILE --output FOLDER
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redheart.module import MultiTaskModule

DESCRIPTION = """Turn a file that torch.save wrote into a checkpoint of units: safetensors files and a manifest. The
file holds the state of the run's model: whole, by unit, or as train.py saves it. It is loaded with weights_only, so
that pickled code in it is refused and never executed."""


def convert(run_dir: Path, checkpoint: Path, output: Path) -> None:
    """Write the units in the file `checkpoint` below `output`, as of the model of a run.

    Raises:
        UserError: if the file holds pickled code or other weights than that model's, or `output` exists.
    """
    from hydra.utils import instantiate

    from common.checkpoints import read_pickle
    from common.collect import config_hash
    from common.errors import UserError
    from common.rundir import Run
    from common.unit_files import file_hash, write_units

    if output.exists():
        raise UserError(f"{output}: exists already; name a new folder.")
    config = Run(run_dir).config
    module = instantiate(config.module, _convert_="all")
    content = read_pickle(checkpoint)
    try:
        load_state(module, content.get("state_dict", content))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{checkpoint}: not the weights of the model of {run_dir}: {reason}") from None
    states = ((name, unit.state_dict()) for name, unit in module.units.items())
    write_units(
        output, states, module.groups, "float32", config_hash=config_hash(config), seed=config.seed,
        converted_from={"file": str(checkpoint), "sha256": file_hash(checkpoint)},
    )  # fmt: skip


def load_state(module: "MultiTaskModule", state: Mapping[str, Any]) -> None:
    """Strictly load the state of a network, as such, below `network.` as checkpoints of runs have it, or by unit.

    Raises:
        RuntimeError: if names or shapes differ.
    """
    from common.checkpoints import NETWORK

    if all(isinstance(state.get(name), Mapping) for name in module.units):
        for name, unit in module.units.items():
            unit.load_state_dict(state[name])
        return
    below = {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}
    module.network.load_state_dict(below or state)


def main(words: list[str] | None = None) -> int:
    """Run the command; exit code 0. A user's mistake ends the program with one line and code 2."""
    parser = argparse.ArgumentParser(prog="python -m redheart.convert_checkpoint", description=DESCRIPTION)
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="RUN", help="directory of the run whose model it is")
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="the .pt or .ckpt file")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the units go")
    arguments = parser.parse_args(words)
    from common.cli import fail
    from common.errors import UserError

    try:
        convert(arguments.run, arguments.checkpoint, arguments.output)
    except UserError as error:
        fail(str(error))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
