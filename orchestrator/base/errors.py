"""Errors that end a command, each with the exit code that scripts rely on."""

from __future__ import annotations

import errno

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class StudyError(Exception):
    """Base of the errors that a user sees as one message, without a traceback."""

    exit_code = 1


class BadInput(StudyError):
    """What was asked for cannot be: rule, value received, remedy. Nothing was created."""

    exit_code = 2


class Unreachable(BadInput):
    """A store or cluster does not answer at the start."""


class LaunchHeld(StudyError):
    """Another driver holds this launch."""

    exit_code = 3


def is_disk_trouble(error: BaseException) -> bool:
    """Whether a file system cannot take what is written: no fault of what wrote it."""
    return isinstance(error, OSError) and error.errno in _DISK


def halted(error: object) -> str:
    """One message for a disk that stopped a driver or a trial."""
    return (
        f"a disk cannot be written: {error}. Nothing is left half-written; free space or mend it, "
        "and the same command continues."
    )
