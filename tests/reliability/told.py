"""What campaigns counted stands at the end of a test session's report, whichever process has run them."""

from __future__ import annotations

from typing import Any

PROPERTY = "campaign"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line a campaign."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    lines = [text for report in reports for name, text in report.user_properties if name == PROPERTY]
    if lines:
        terminalreporter.section("campaigns")
        terminalreporter.write_line("\n".join(sorted(lines)))
