"""What the fuzzing server's results amount to: counts by section, failures, and why a case is not strict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

PASSED = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
_AT_ONCE = "what comes in one read with a broken rule is received, not echoed: our close frame has gone out by then"
_SAID_BEFORE = ("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15")
REASONS = {
    **dict.fromkeys(_SAID_BEFORE, _AT_ONCE),
    "6.4": "text is checked when its message is whole, not at each fragment; it is refused all the same (1007)",
}
"""Why cases are not strict, by the start of their ids; one without a reason counts as failed."""
TITLES = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close handling",
    "9": "limits and performance",
    "10": "auto-fragmentation",
    "12": "compression, different payloads",
    "13": "compression, different parameters",
}


@attrs.frozen(kw_only=True)
class Summary:
    """
    One run.

    Attributes:
        sections: By number, how many cases ended how.
        failures: By case id, how it failed.
        not_strict: By case id, why.
    """

    sections: Mapping[str, Mapping[str, int]]
    failures: Mapping[str, str]
    not_strict: Mapping[str, str]

    @property
    def is_bad(self) -> bool:
        """Say that a case failed, or that there was none."""
        return bool(self.failures) or not self.sections


def reason_of(case: str) -> str | None:
    """Return why a case is not strict, None where nobody knows."""
    return next((why for start, why in REASONS.items() if case == start or case.startswith(f"{start}.")), None)


def failure_of(case: str, result: Mapping[str, Any] | None) -> str | None:
    """Return how a case failed, None where it did not."""
    if result is None:
        return "it has no result"
    behaviour, closing = result["behavior"], result["behaviorClose"]
    if behaviour not in PASSED or closing not in PASSED:
        return f"{behaviour}, closing {closing}"
    if behaviour == "NON-STRICT" and reason_of(case) is None:
        return "it is not strict, and no reason is known"
    return None


def judge(cases: Iterable[str], results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """
    Sum up.

    Args:
        cases: The ids of all that were run.
        results: What the server found, by case id.
    """
    sections: dict[str, Counter[str]] = {}
    failures: dict[str, str] = {}
    not_strict: dict[str, str] = {}
    for case in cases:
        failure = failure_of(case, results.get(case))
        behaviour = "FAILED" if failure is not None else results[case]["behavior"]
        sections.setdefault(case.split(".")[0], Counter())[behaviour] += 1
        if failure is not None:
            failures[case] = failure
        elif behaviour == "NON-STRICT":
            not_strict[case] = reason_of(case) or ""
    return Summary(sections=sections, failures=failures, not_strict=not_strict)


def table(summary: Summary) -> list[str]:
    """Write the counts as a table in Markdown."""
    lines = ["| section | OK | not strict | informational | failed |", "|---|---|---|---|---|"]
    for section, counts in summary.sections.items():
        figures = " | ".join(str(counts.get(key, 0)) for key in ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED"))
        lines.append(f"| {section}. {TITLES.get(section, '')} | {figures} |")
    totals = [
        sum(counts.get(key, 0) for counts in summary.sections.values())
        for key in ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED")
    ]
    return [*lines, f"| all | {' | '.join(map(str, totals))} |"]
