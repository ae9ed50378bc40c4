"""Every error that Muster raises on purpose.

MusterError
├── UserError              the user's mistake; exit code 2, one sentence, no traceback
│   ├── FieldError         a part's field holds a value that it may not
│   ├── JobError           a job file says something that cannot be run (file, line, key)
│   ├── DataError          a data set is missing, damaged or of an unknown format
│   ├── CertificateError   a certificate or key cannot be made, read or used
│   └── RunFolderError     a run folder or a checkpoint cannot be read or written
├── AccessError            a caller has not shown who it is, or may not do what it asks
└── TrainingError          a client's training raised; names the client and the task

What is not in this tree is a bug of ours: a traceback in the run folder, exit code 1.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Iterable


class MusterError(Exception):
    """The root: catch this to catch everything that Muster raises on purpose."""


class UserError(MusterError, ValueError):
    """The user's mistake. The text says what was found, what is allowed and the fix."""


class FieldError(UserError):
    """A field of a part (`Sync.cohort`, say) holds a value that it may not.

    Args:
        owner: The part's name, as the user would write it.
        field: The field's name.
        found: The value found.
        allowed: What is allowed, as it reads after "must be".
    """

    def __init__(self, owner: str, field: str, found: object, allowed: str) -> None:
        self.owner, self.field, self.found, self.allowed = owner, field, found, allowed
        super().__init__(f"{owner}.{field} is {found!r}, but must be {allowed}")


class JobError(UserError):
    """A job file that cannot be run: says file, line, key, what was found and what is allowed."""


class DataError(UserError):
    """A data set that is missing, damaged, or not in the format it should be in."""


class RunFolderError(UserError):
    """A run folder or checkpoint that cannot be read or written (missing, damaged, disk full)."""


class CertificateError(UserError):
    """A certificate or key that cannot be made, read or used: says which file, and the date or name."""


class AccessError(MusterError):
    """A caller is refused.

    Args:
        code: The gRPC status by name: UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED.
        why: The sentence that the caller is told.
    """

    def __init__(self, code: str, why: str) -> None:
        self.code = code
        super().__init__(why)


class TrainingError(MusterError):
    """A client's training raised an exception. Names the client and the task."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'cohort'?"` when `word` looks like one of `known`, else an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
