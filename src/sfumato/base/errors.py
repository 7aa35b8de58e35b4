"""The errors that a user meets: one sentence each, naming the setting or the file, never a private value."""


class SfumatoError(ValueError):
    """Root of every error that the command line prints as one sentence instead of a traceback."""


class Refused(SfumatoError):
    """What was asked for is not proved (or not measured exactly), so it is not done: never a fall-back."""


class BadInput(SfumatoError):
    """A file, a column or a setting of the user is wrong; the message names it and the nearest thing that works."""


class UndecodableRow(SfumatoError):
    """One row of a data set cannot be read. It stays a record; its contribution is zero, and is counted in private."""


class Stopped(SfumatoError):
    """The run was ended from outside (a process of it was killed); the same command resumes."""
