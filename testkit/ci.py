"""A pytest plugin for CI (``-p testkit.ci``): a skipped test is a failure there.

On a user's machine, a test whose part is missing (a browser, a native program) is skipped with a
reason. In CI every part is present, so a skip means that something was not tested.
"""

from __future__ import annotations

import pytest

_skipped: list[str] = []


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as skipped too, with this attribute.
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a skipped test."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a module that was skipped as a whole."""
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that passed but skipped tests."""
    if _skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the skipped tests."""
    for nodeid in _skipped:
        terminalreporter.write_line(f"SKIPPED IN CI, which is a failure: {nodeid}", red=True)
