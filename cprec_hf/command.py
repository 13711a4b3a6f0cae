"""How every command ends: what the user can mend is one line and status 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cprec_hf.errors import InputError
from cprec_hf.files import ran_out_of_space


def exit_status(run: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run a command; returns its status: its own, 2 after an error the user can mend, 130 after Ctrl-C.

    Args:
        run: the command.
        arguments: its command line, which may name a recipe to mend.
    """
    try:
        return run()
    except InputError as error:
        print(f"cprec: {_with_recipe(str(error), arguments)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncprec: interrupted; nothing was left half-written", file=sys.stderr)
        return 130
    except Exception as error:
        if not ran_out_of_space(error):
            raise
        print(f"cprec: no room to write: {error}; free some space and run it again", file=sys.stderr)
        return 2


def run_as_command(main: Callable[[], object]) -> None:
    """Run a module's `main` for `python -m`, and leave the process with the status if it failed."""

    def run() -> int:
        main()
        return 0

    if status := exit_status(run, sys.argv[1:]):
        raise SystemExit(status)


def _with_recipe(message: str, arguments: Sequence[str]) -> str:
    """The message, behind the recipe to mend if a recipe was given and the message does not name it."""
    recipe = next((argument for argument in arguments if argument.endswith((".yaml", ".yml"))), "")
    return message if recipe in message else f"{recipe}: {message}"
