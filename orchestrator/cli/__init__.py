"""The command line `moe-study`: reads what was asked, calls the function that does it, prints."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings

from orchestrator.cli import (  # noqa: F401  (each adds its commands to the app)
    doctor,
    new,
    plan,
    read,
    report,
    run,
    ui,
)
from orchestrator.cli.options import app, errors
from orchestrator.errors import StudyError
from orchestrator.net import redact


def main() -> None:
    """The entry point: every expected failure is one message on stderr, and an exit code."""
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="ray|mlflow|optuna")
    try:
        app()
    except StudyError as error:
        errors.print(
            f"moe-study: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        # A defect of ours: its traceback is wanted, the credentials of a URL in it are not.
        print(redact(traceback.format_exc()), file=sys.stderr)
        sys.exit(1)
