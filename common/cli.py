"""The command line: lists what there is, and tells mistakes in one line. Imports nothing heavy."""

import errno
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common import config as configs
from common.errors import ChecksFailed, UserError, nearest

USER_EXIT = 2


def command_line(main: Callable[[], Any], prepare: Callable[[list[str]], list[str]]) -> None:
    """Run a Hydra main function on the command line; a user's mistake is one line on stderr and exit code 2.

    Args:
        main: the function that `hydra.main` decorated.
        prepare: checks and completes the words of the command line.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that exceptions reach us instead of being printed by Hydra
    logging.captureWarnings(True)
    try:
        sys.argv[1:] = prepare(sys.argv[1:])
        main()
    except UserError as error:
        fail(str(error))
    except ChecksFailed as error:
        fail_checks(error)
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error))
    except RuntimeError as error:
        plugin = re.search(r"Unknown plugin class : '(.+)'", str(error))  # Hydra's words
        if plugin is None:
            raise
        fail(f"{plugin.group(1)}: not installed; docs/sweeps.md says how.")


def run_task(function: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """Call `function(config)`; outside a sweep, a user's mistake or a full disk ends the program with one line."""
    try:
        return function(config)
    except ChecksFailed as error:
        fail_checks(error)
    except (UserError, InstantiationException) as error:
        mistake = error if isinstance(error, UserError) else error.__cause__  # raised by a constructor
        if not isinstance(mistake, UserError) or HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # a bug; or the sweeper decides whether the sweep goes on
        fail(str(mistake))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(f"{error.filename or 'disk'}: no space left while writing; what was there is unharmed. Free space, then "
             "`python train.py resume=<run directory>`.")  # fmt: skip


def fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(USER_EXIT)


def fail_checks(error: ChecksFailed) -> None:
    print(f"failed: {error}", file=sys.stderr)
    raise SystemExit(1) from None


def prepare_train(words: list[str]) -> list[str]:
    """Without an experiment: print the experiments and leave. With an unknown one: say which is nearest."""
    if any(word.startswith(("-", "hydra.searchpath=")) and word not in ("-m", "--multirun") for word in words):
        return words  # Hydra's own flags, or experiments that lie elsewhere
    chosen = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if not chosen and not any(word.startswith("resume=") for word in words):
        print_experiments()
        raise SystemExit(0)
    for name in chosen[0].split(",") if chosen else ():
        configs.check_experiment(name)
    return words


def prepare_evaluate(words: list[str]) -> list[str]:
    """Add the analysis that the run's programme names, unless one is given; that of a study is always the same."""
    from common.rundir import resolve_run

    if any(word.startswith("-") for word in words):
        return words
    if any(word.startswith("study=") for word in words):
        return ["run=[]", "analysis=sweep", *words]
    run = next((word.partition("=")[2] for word in words if word.startswith("run=")), None)
    if run is None:
        raise UserError("run: which run? Pass run=<run directory> or run=latest:<experiment>.")
    if any(word.startswith("analysis=") for word in words):
        return words
    with configs.initialised():
        import hydra

        paths = hydra.compose("evaluate", [word for word in words if word.startswith("paths")]).paths
    return [*words, f"analysis={resolve_run(run, paths.output_dir).config.analysis}"]


def print_experiments() -> None:
    names = configs.options("experiment")
    width = max(map(len, names), default=0)
    print("Pass experiment=NAME, for example `python train.py experiment=lasps_phase2`. There are:\n")
    for name in names:
        print(f"  {name:<{width}}  {configs.summary_line(configs.CONF / 'experiment' / f'{name}.yaml')}")


def explain(error: BaseException) -> str:
    """One line for a mistake in an override or a config file, with the nearest known name."""
    text = str(error)
    unknown_key = re.search(r"Could not override '([^']+)'", text)
    if unknown_key:
        return _explain_key(unknown_key.group(1))
    options = re.search(r"Could not find '([^']+)'", text)
    if options and options.group(1).startswith("hydra/"):
        group, _, name = options.group(1).rpartition("/")
        return f"{group}={name}: no such option; if it is a plugin's, install that (docs/sweeps.md)."
    if options:
        group, _, name = options.group(1).partition("/")
        known = configs.options(group)
        own = [each for each in known if each.startswith(f"{name.partition('/')[0]}/") and "/parts/" not in each]
        return f"{group}={name}: no such option.{nearest(name, own or known)} There are {', '.join(own or known)}."
    cause = error.__cause__
    return text.splitlines()[0] + (f": {str(cause).splitlines()[0]}" if cause is not None else "")


def _explain_key(key: str) -> str:
    experiment = next((word.partition("=")[2] for word in sys.argv if word.startswith("experiment=")), None)
    if experiment is not None and "," in experiment:  # Hydra composes what is common to all jobs before any of them
        return f"{key}: in a sweep over experiments write {key}=choice(VALUE)."
    owner, _, name = key.rpartition(".")
    known: list[str] = []
    if experiment in configs.options("experiment"):
        node = OmegaConf.select(configs.compose(experiment), owner) if owner else configs.compose(experiment)
        known = [str(each) for each in node] if isinstance(node, DictConfig) else []
    listed = f" Known: {', '.join(known)}." if known else ""
    return f"{key}: unknown key.{nearest(name, known)}{listed}"
