"""How a sweep fails: the exception that ends it, and the error that its report carries."""

from __future__ import annotations

from reaper.client.credentials import CredentialsUnavailable
from reaper.client.drivers.base import Driver
from reaper.client.faults import Fault, first_line
from reaper.client.fields import ConfigurationError
from reaper.engines.base import Engine
from reaper.engines.termination import TooSlowToTerminateError
from reaper.report import ErrorKind, SweepError

_KINDS = {
    Fault.TOO_MANY: ErrorKind.LOCKED_OUT,
    Fault.CREDENTIALS: ErrorKind.CREDENTIALS,
    Fault.CONFIGURATION: ErrorKind.CONFIGURATION,
    Fault.UNREACHABLE: ErrorKind.UNREACHABLE,
    Fault.STARTING: ErrorKind.UNREACHABLE,
    Fault.TIMEOUT: ErrorKind.DEADLINE,
}


class SweepFailed(Exception):
    """Ends a sweep with an error that its report carries."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.error = SweepError(kind, message)


def error_of(problem: Exception, driver: Driver) -> SweepError:
    """What went wrong, in the report's words.

    Of a driver's error only the first line is kept: what stands below it may quote SQL.
    """
    match problem:
        case SweepFailed():
            return problem.error
        case ConfigurationError():
            return SweepError(ErrorKind.CONFIGURATION, str(problem))
        case CredentialsUnavailable():
            return SweepError(ErrorKind.CREDENTIALS, first_line(problem))
        case TooSlowToTerminateError():
            return SweepError(ErrorKind.SERVER, str(problem))
    return SweepError(_KINDS.get(driver.fault(problem), ErrorKind.SERVER), first_line(problem))


def login_error_of(problem: Exception, driver: Driver) -> SweepError:
    """The same for a login, where a timeout means that the server cannot be reached: a security
    group drops packets without answering them.
    """
    error = error_of(problem, driver)
    is_timeout = error.kind is ErrorKind.DEADLINE and not isinstance(problem, SweepFailed)
    return SweepError(ErrorKind.UNREACHABLE, error.message) if is_timeout else error


def blind_error(engine: Engine) -> SweepError:
    """The error of an account that does not see the sessions of others, with what to grant it."""
    return SweepError(
        ErrorKind.BLIND,
        f"the account cannot see the sessions of others; GRANT it {engine.right_to_see}",
    )
