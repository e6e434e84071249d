"""The group of commands, and how errors are told: one sentence on standard error and an exit code, no traceback.

Exit codes: 0 done; 1 the machine said no (disk full, for example); 2 the caller's mistake; 3 a damaged or unsupported
file; 130 interrupted. Heavy modules are imported inside the commands that need them, so that `--help`, `info`,
`verify` and mistakes answer at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import click

from inrwsi import __version__
from inrwsi.cli.bench import bench
from inrwsi.cli.decode import decode
from inrwsi.cli.encode import encode
from inrwsi.cli.export import export
from inrwsi.cli.info import info
from inrwsi.cli.sample import sample
from inrwsi.cli.serve import serve
from inrwsi.cli.verify import verify
from inrwsi.errors import InrwsiError, is_interrupt

# Idle threads of torch's pool sleep instead of spinning: where cores are shared, spinning costs five times the work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EXIT_OS_ERROR = 1
EXIT_INTERRUPTED = 130


class HouseGroup(click.Group):
    """A group that turns the project's errors, the machine's errors and Ctrl-C into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        # A file's name may be bytes that no text is: telling it must not turn what was done into a failure.
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        if ctx.params["debug"]:
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except InrwsiError as error:
            sentence, code = str(error), error.exit_code
        except (KeyboardInterrupt, SystemError) as error:
            if not is_interrupt(error):
                raise
            # The text of an interrupt says what can be resumed, where anything can.
            told = error.args if isinstance(error, KeyboardInterrupt) else ()
            sentence, code = "; ".join(["interrupted", *map(str, told)]), EXIT_INTERRUPTED
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output went away: click ends quietly
                raise
            name = f"{error.filename}: " if error.filename is not None else ""
            sentence, code = f"{name}{error.strerror or error}", EXIT_OS_ERROR
        click.echo(f"inrwsi: {sentence}", err=True)
        raise click.exceptions.Exit(code)


@click.group(
    "inrwsi",
    cls=HouseGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: inrwsi encode slide.svs -o slide.cinr",
)
@click.version_option(__version__, prog_name="inrwsi")
@click.option("--debug", is_flag=True, help="Show a traceback where there would be one sentence.")
def main(debug: bool) -> None:
    """Whole-slide images as neural fields: a slide goes in, a .cinr file comes out, and any region of it comes back
    at any magnification."""


for _command in (encode, decode, info, verify, export, serve, sample, bench):
    main.add_command(_command)
