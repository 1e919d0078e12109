"""Errors that end a command, each with the exit code that scripts rely on."""

from __future__ import annotations


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
