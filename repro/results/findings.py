"""The findings of an audit, as a Result stores them."""

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

PASSED, FAILED, UNCHECKED = "passed", "FAILED", "not checked"


class Finding(NamedTuple):
    """One check: its name, whether it passed, what was observed, and the likely reason if not."""

    check: str
    status: str
    seen: str
    reason: str = ""


@dataclass(frozen=True)
class Audit:
    """What was checked of a model on a task.

    Attributes:
        model, task: their names. sha256: of the task's data. findings: in the order of the checks.
    """

    model: str
    task: str
    sha256: str
    findings: list[Finding]

    @property
    def failed(self) -> list[Finding]:
        """The checks that failed; empty if none did."""
        return [finding for finding in self.findings if finding.status == FAILED]

    def table(self) -> pd.DataFrame:
        """Return the findings, one row per check."""
        return pd.DataFrame(self.findings)

    def record(self) -> list[dict[str, str]]:
        """Return the findings as a Result stores them, in `evaluation["audit"]`."""
        return [finding._asdict() for finding in self.findings]

    def __str__(self) -> str:
        lines = [f"audit of {self.model} on {self.task}, in the units that the model sees"]
        for check, status, seen, reason in self.findings:
            lines.append(f"  {status:11}  {check}: {seen}")
            lines += [f"{'':15}likely: {reason}"] if reason else []
        checked = sum(finding.status != UNCHECKED for finding in self.findings)
        lines.append(f"{checked} checks, {len(self.failed)} failed")
        return "\n".join(lines)


def summary(record: list[dict[str, str]]) -> str:
    """Return a short summary of stored findings, which names the checks that failed."""
    failed = [finding["check"] for finding in record if finding["status"] == FAILED]
    passed = sum(finding["status"] == PASSED for finding in record)
    return f"failed: {', '.join(failed)}" if failed else f"{passed} passed"
