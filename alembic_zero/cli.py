"""Our commands on the stock ``alembic`` script, and exit codes 1 and 2 for our errors.

Imported with ``alembic.config``, whatever the command will be: what is heavy is imported by the
commands themselves.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from alembic import util

from alembic_zero import commands
from alembic_zero.errors import NEXT_COMMAND, ZeroError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from alembic.config import CommandLine, Config

_REVISION = ("revision", {"nargs": "?", "help": "revision identifier; the latest one if left out"})
_JSON = (
    "--json",
    {"action": "store_true", "dest": "as_json", "help": "Print JSON, for programs to read"},
)
_FORCE = (
    "--force",
    {
        "action": "store_true",
        "help": "Go on despite clients of the old version, quarantined rows or a failed verification",
    },
)
_REPAIR = (
    "--repair",
    {
        "nargs": "?",
        "const": "old",
        "choices": ("old", "new"),
        "help": "Mend what is found: by what the old version says (the default), or the new one",
    },
)

_COMMANDS: tuple[tuple[Callable[..., None], tuple[tuple[str, dict[str, Any]], ...]], ...] = (
    (commands.zd_init, ()),
    (commands.zd_status, (_JSON,)),
    (commands.zd_plan, (_REVISION,)),
    (commands.zd_verify, (_REVISION, _JSON, _REPAIR)),
    (commands.zd_complete, (_REVISION, _FORCE)),
    (commands.zd_prune, ()),
    (commands.zd_schema, (_REVISION,)),
)


def install(command_line: type[CommandLine]) -> None:
    """Make every *command_line* built from now on know our commands. Safe to repeat."""
    if hasattr(command_line.run_cmd, "_alembic_zero"):
        return
    command_line.__init__ = _with_commands(command_line.__init__)  # type: ignore[method-assign]
    command_line.run_cmd = _with_exit_codes(command_line.run_cmd)  # type: ignore[method-assign]


def _with_commands(init: Callable[..., None]) -> Callable[..., None]:
    """Return *init* such that it adds our commands after Alembic's own."""

    @functools.wraps(init)
    def init_with_commands(self: CommandLine, *args: Any, **kw: Any) -> None:
        init(self, *args, **kw)
        for function, arguments in _COMMANDS:
            self.register_command(function)
            parser: ArgumentParser = self.subparsers.choices[function.__name__]
            for name, options in arguments:
                parser.add_argument(name, **options)

    return init_with_commands


def _with_exit_codes(run_cmd: Callable[..., None]) -> Callable[..., None]:
    """Return *run_cmd* such that our errors end the process with their own exit code."""

    @functools.wraps(run_cmd)
    def run_cmd_with_exit_codes(self: CommandLine, config: Config, options: Namespace) -> None:
        if getattr(options, "raiseerr", False):
            run_cmd(self, config, options)
            return
        function, *arguments = options.cmd
        # A copy: env.py may look at config.cmd_opts.cmd to see which command runs.
        guarded = copy.copy(options)
        guarded.cmd = (_guard(function), *arguments)
        run_cmd(self, config, guarded)

    run_cmd_with_exit_codes._alembic_zero = True  # type: ignore[attr-defined]  # noqa: SLF001
    return run_cmd_with_exit_codes


def _guard(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* such that it exits on our errors before Alembic does, which knows 255 only."""
    is_ours = any(function is command for command, _ in _COMMANDS)

    @functools.wraps(function)
    def guarded(config: Config, *args: Any, **kw: Any) -> Any:
        from sqlalchemy.exc import OperationalError

        try:
            return function(config, *args, **kw)
        except ZeroError as error:
            _exit(config, str(error), error)
        except OperationalError as error:
            # On a lost connection env.py's own ROLLBACK fails, too: what was raised before says more.
            cause = _first_of_ours(error)
            if cause is not None:
                _exit(config, str(cause), cause)
            next_command = config.attributes.get(NEXT_COMMAND)
            if not is_ours and next_command is None:
                raise
            _exit(config, _describe_outage(error, next_command), error)

    return guarded


def _first_of_ours(error: BaseException | None) -> ZeroError | None:
    """Return our error during whose handling *error* was raised, if there is one."""
    while error is not None and not isinstance(error, ZeroError):
        error = error.__cause__ or error.__context__
    return error


def _exit(config: Config, message: str, error: Exception) -> NoReturn:
    """Print *message* where and as Alembic prints its errors, and exit with the code of *error*.

    :raises SystemExit: always.
    """
    if getattr(error, "printed", False):
        # Standard output has the result, which a program may read.
        sys.stderr.write(f"{message}\n")
        raise SystemExit(1) from error
    try:
        util.err(message, **config.messaging_opts)
    except SystemExit:
        code = error.exit_code if isinstance(error, ZeroError) else 1
        raise SystemExit(code) from error
    raise AssertionError  # util.err always exits


def _describe_outage(error: Exception, next_command: str | None) -> str:
    """Return in one line why PostgreSQL could not be reached, or was lost."""
    cause = getattr(error, "orig", None) or error
    reached = getattr(error, "statement", None) is not None
    problem = "the database failed" if reached else "cannot connect to the database"
    line = f"[ZD103] {problem}: {' '.join(str(cause).split())}"
    return f"{line}; finished steps are recorded, clients go on working; next: {next_command}" if next_command else line
