"""Mistakes a user can mend, told in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what the user typed or supplied: what is wrong, where, and what to do.

    The command line prints it as a single line and exits with code 2, without a traceback. Anything that is a bug
    of this project must not be a UserError.
    """


class ChecksFailed(Exception):
    """What was checked is not as it must be: the message names the checks. Exit code 1, without a traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the known name closest to `name`, or '' when none is close."""
    matches = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean {matches[0]}?" if matches else ""
