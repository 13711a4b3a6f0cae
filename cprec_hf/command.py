"""How every command ends: what the user can mend is one line and status 2, never a traceback."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence

from cprec_hf.errors import InputError
from cprec_hf.files import ran_out_of_space


def exit_status(run: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run a command; returns its status: its own, 2 after an error the user can mend, 130 after Ctrl-C.

    It is 141, quietly, where the reader of its output has gone (`| head -1`), as it is of programs in C.

    Args:
        run: the command.
        arguments: its command line, which may name a recipe to mend.
    """
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()  # what stays in the buffer would fail too late, when the interpreter ends
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        return 141
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


def _reader_has_gone() -> bool:
    """Whether it is the output's pipe that broke, not one to a process of our own."""
    output = select.poll()
    try:
        output.register(sys.stdout, 0)
    except (OSError, ValueError):  # no file of the system's
        return False
    return any(events & select.POLLERR for _, events in output.poll(0))


def _with_recipe(message: str, arguments: Sequence[str]) -> str:
    """The message, behind the recipe to mend if a recipe was given and the message does not name it."""
    recipe = next((argument for argument in arguments if argument.endswith((".yaml", ".yml"))), "")
    return message if recipe in message else f"{recipe}: {message}"
