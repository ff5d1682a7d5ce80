"""Errors an operator meets: what was found, what was expected, where to fix it.

Each class is one runbook entry and one exit code of sysexits.h. The orchestrator fails a task
at once on 64-78 (trying again cannot help) and retries on anything else.
"""

import errno
import re

PASSING = {
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
    *(errno.EINTR, errno.ENOSPC, errno.EDQUOT, errno.ETIMEDOUT, errno.EHOSTDOWN),
}
"""What the system answers where it lacks something or a disk is away, whoever asks."""


class PenumbraError(Exception):
    """An error that explains itself in one line.

    Args:
        found: What is there.
        expected: What should be there.
        fix: Where or how to mend it.
    """

    exit_code = 70

    def __init__(self, found: str, expected: str, fix: str) -> None:
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(" ".join(f"found {found}; expected {expected}; fix: {fix}".split()))

    def __reduce__(self) -> tuple[type["PenumbraError"], tuple[str, str, str]]:
        """How another process makes it again."""
        return type(self), (self.found, self.expected, self.fix)


def without_passwords(text: str) -> str:
    """The text with passwords of addresses in it (`://user:password@host`) left out."""
    return re.sub(r"(://[^/\s:@]*):[^/\s?#]+@", r"\1:…@", text)


def may_pass(error: BaseException) -> bool:
    """Whether an error is one of the host, which says nothing about a file, and may pass."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in PASSING)


def error_classes(base: type[PenumbraError] = PenumbraError) -> list[type[PenumbraError]]:
    """All kinds of errors, a general one before its special ones."""
    return [found for kind in base.__subclasses__() for found in (kind, *error_classes(kind))]


NEVER_RETRIED = range(64, 79)
"""Exit codes of sysexits.h, which the stages' errors carry: trying again is no use."""


class UsageError(PenumbraError):
    """The command line asks for something that cannot be."""

    exit_code = 64


class DataError(PenumbraError):
    """The input is there, and it is wrong."""

    exit_code = 65


class ContractError(DataError):
    """A table breaks its contract: schema, nulls, ranges or key."""


class CorruptPartitionError(DataError):
    """A published file is missing, extra or changed since it was published."""


class HealthError(DataError):
    """A watched number of the night's day is beyond its limit."""


class StaleChampionError(DataError):
    """What serves was trained on data older than it may be, or nothing serves."""


class MissingInputError(PenumbraError):
    """The input is not there: no folder, no file or no row."""

    exit_code = 66


class MissingProgramError(PenumbraError):
    """The host lacks a program that the stage needs, such as Java."""

    exit_code = 69


class StaleWriterError(PenumbraError):
    """A newer run has already published this partition, or one that was read for it."""

    exit_code = 73


class RegistryError(PenumbraError):
    """The model registry and the tables disagree, or someone else moved an alias."""

    exit_code = 76


class SettingsError(PenumbraError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 78
