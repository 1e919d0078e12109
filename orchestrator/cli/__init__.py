"""The command line `moe-study`: reads what was asked, calls the function that does it, prints."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings

import typer

from orchestrator.base.errors import BadInput, StudyError, halted, is_disk_trouble
from orchestrator.base.urls import DiscreetRecord, redact
from orchestrator.cli import (  # noqa: F401  (each adds its commands to the app)
    archive_commands,
    compare_command,
    doctor_command,
    enqueue_command,
    export_model_command,
    figure_command,
    new_command,
    plan_command,
    promote_command,
    read_commands,
    recommend_command,
    report_command,
    run_command,
    scaling_command,
    submit_command,
    table_commands,
    ui_command,
)
from orchestrator.cli.parameters import app, errors, until_the_end

_UsageError = typer.BadParameter.__base__


def main() -> None:
    """The entry point: every expected failure is one message on stderr, and an exit code."""
    logging.setLogRecordFactory(DiscreetRecord)
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="ray|mlflow|optuna")
    try:
        _require_text(sys.argv[1:])
        with until_the_end:
            sys.exit(app(standalone_mode=False))
    except StudyError as error:
        _tell(str(error))
        sys.exit(error.exit_code)
    except _UsageError as error:
        _tell_usage(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if not is_disk_trouble(error):
            print(redact(traceback.format_exc()), file=sys.stderr)
        else:
            _tell(halted(error))
        sys.exit(1)
    except Exception:
        # A defect of ours: its traceback is wanted, the credentials of a URL in it are not.
        print(redact(traceback.format_exc()), file=sys.stderr)
        sys.exit(1)


def _require_text(arguments: list[str]) -> None:
    """Bytes that are no UTF-8 could be kept in neither store."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise BadInput(
                f"what is typed is text in UTF-8; received {redact(argument)!a}. Correct it, "
                "or rename the file."
            ) from None


def _tell(message: str) -> None:
    errors.print(f"moe-study: {message}", style="red", highlight=False, soft_wrap=True)


def _tell_usage(error: Exception) -> None:
    message = error.format_message()
    if not message:  # nothing was asked for: the help is the answer
        error.show()
        return
    command = error.ctx.command_path if error.ctx else "moe-study"
    # A suggestion ends in a question mark, and a full stop of its own.
    sentence = message.replace("?.", "?").rstrip(".")
    _tell(f"{sentence}{'' if sentence.endswith('?') else '.'} See `{command} --help`.")
