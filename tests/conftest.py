"""Skips are explicit: where the whole suite must run, one that is not listed here fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

# No test is about time: what an example takes says how busy the machine is.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

#: Set by "make test" and in CI.
STRICT = os.environ.get("DMATRACE_REQUIRE_GUEST") == "1"

#: Beginning of a skip's reason -> why it may be skipped even where everything must run.
ALLOWED_SKIPS = {
    "long: ": "only make test-long sets DMATRACE_LONG",
    "kernel lacks: ": "a kernel of the matrix has no such feature; the others run the test",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("DMATRACE_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: set DMATRACE_LONG=1"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; runs with DMATRACE_LONG=1")
    # Whoever runs in the background or under nohup(1) ignores them, and so would every
    # program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    config.pluginmanager.register(_Reruns(config))


class _Reruns:
    """With --reruns: what a test said that fails once and then does not."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        # A worker of xdist has no terminal.
        if report.outcome == "rerun" and terminal is not None:
            terminal.write_sep("_", f"{report.nodeid} failed, and is run once more")
            terminal.write_line(report.longreprtext)


def _unexpected(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """The reason of a skip that is not allowed."""
    if not STRICT or not report.skipped or hasattr(report, "wasxfail"):
        return None
    detail: Any = report.longrepr
    reason = str(detail[2] if isinstance(detail, tuple) else detail).removeprefix("Skipped: ")
    return None if reason.startswith(tuple(ALLOWED_SKIPS)) else reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reason = _unexpected(report)
    if reason is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped where everything must run: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    reason = _unexpected(report)
    if reason is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped where everything must run: {reason}"
    return report
