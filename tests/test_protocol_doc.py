"""docs/protocol.md says what the code does: fields, examples, ABNF limits and state tables are compared with it."""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from resilient_ws import state
from resilient_ws.dialects import native, native_control
from resilient_ws.dialects.fields import Spec
from resilient_ws.dialects.native import Native

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "protocol.md").read_text("utf-8")
BEGIN, END = "<!-- state tables: begin", "<!-- state tables: end -->"
SIDES = {"client to server": ("client",), "server to client": ("server",), "both": ("client", "server")}
TABLES = {"client": native_control.CLIENT, "server": native_control.SERVER}


def sections(text: str) -> dict[tuple[str, str], str]:
    """Return {(side, frame type): text of its section}."""
    found: dict[tuple[str, str], str] = {}
    for title, body in re.findall(r"^### (`.*?)\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE):
        names, _, direction = title.rpartition(", ")
        for kind in re.findall(r"`(\w+)`", names):
            for side in SIDES[direction]:
                found[side, kind] = body
    return found


def fields_of(section: str) -> list[tuple[str, bool]]:
    """Return (key, required) of the first table that has a field column."""
    table = section.split("| field | type | default | meaning |\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[1:]]
    return [(row[0].strip("`"), row[2] == "required") for row in rows]


def told(spec: Spec) -> list[tuple[str, bool]]:
    return [(field.key, field.required) for field in spec.fields]


def examples(section: str) -> list[str]:
    return re.findall(r"```json\n(.*?)\n```", section)


def rendered(title: str, table: dict[Any, dict[Any, Any]], inputs: type[Enum]) -> str:
    """Write one state table as Markdown."""
    heads = [f"`{each.value}`" for each in inputs]
    lines = [f"| {title} | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for before, row in table.items():
        cells = [row[each].name if each in row else "" for each in inputs]
        lines.append(f"| {before.name} | {' | '.join(cells)} |".replace("|  |", "| |"))
    return re.sub(r"\|  (?=\|)", "| ", "\n".join(lines))


def state_tables() -> str:
    return (
        rendered("session", state.SESSION_TABLE, state.SessionInput)
        + "\n\n"
        + rendered("connection", state.CONNECTION_TABLE, state.ConnectionInput)
    )


SECTIONS = sections(TEXT)
FRAMES = [(side, kind) for side, table in TABLES.items() for kind in table]


def test_every_frame_has_a_section_and_no_other() -> None:
    """What one side may send has a section with its direction, and the document invents nothing."""
    assert set(SECTIONS) == set(FRAMES)


@pytest.mark.parametrize(("side", "kind"), FRAMES)
def test_the_fields_of_a_frame_are_those_of_the_table(side: str, kind: str) -> None:
    """Keys, their canonical order and what is required are the same in the document and in the code."""
    assert fields_of(SECTIONS[side, kind]) == told(TABLES[side][kind][1])


@pytest.mark.parametrize(("side", "kind"), FRAMES)
def test_the_examples_are_canonical(side: str, kind: str) -> None:
    """Each section has an example; the receiving role reads it and the sending role writes it the same."""
    found = examples(SECTIONS[side, kind])
    assert found
    sender, receiver = Native().client(), Native().server()
    if side == "server":
        sender, receiver = receiver, sender
    for example in found:
        if kind in ("ping", "pong"):
            example = json.dumps({**json.loads(example), "type": kind}, separators=(",", ":"))
        assert sender.encode(receiver.decode([example])) == [example]


def test_the_limits_are_those_of_the_code() -> None:
    """Numbers that the document names are the constants that the codec checks."""
    assert f"{native_control.MAX_CONTROL:,} characters" in TEXT
    assert f"at most {native_control.MAX_PRODUCERS} producers, {native_control.MAX_STREAMS} streams" in TEXT
    assert f"{native_control.MAX_MARKS} marks" in TEXT
    assert f"at most {native.BATCH_MESSAGES} messages and about {native.BATCH_BYTES >> 10} KiB" in TEXT
    assert f"accept up to {native.MAX_BATCH} messages" in TEXT


def test_the_state_tables_are_those_of_the_code() -> None:
    """The two tables of section 8 are generated from resilient_ws/state.py."""
    head, _, rest = TEXT.partition(BEGIN)
    present = rest.partition(END)[0].partition("-->\n")[2].strip()
    assert head
    assert present == state_tables(), "paste this between the markers:\n" + state_tables()


def test_the_rules_are_numbered_1_to_16() -> None:
    """Code and tests cite rules by number, so there are exactly these."""
    rules = TEXT.split("## 6. The rules", 1)[1].split("## 7.", 1)[0]
    assert [int(number) for number in re.findall(r"^(\d+)\. \*\*", rules, re.MULTILINE)] == list(range(1, 17))
    for rule in re.split(r"^\d+\. (?=\*\*)", rules, flags=re.MULTILINE)[1:]:
        assert re.search(r"\s\*[A-Z][^*]*\.\*\s*$", rule), "each rule ends with the schedule it closes: " + rule[:60]


def test_a_field_that_is_missing_would_be_seen() -> None:
    """The negative control: a document without one row, or with a wrong default, is not equal to the table."""
    section = SECTIONS["client", "hello"]
    without = "\n".join(line for line in section.splitlines() if not line.startswith("| `attempt`"))
    assert fields_of(without) != told(native_control.CLIENT["hello"][1])
    optional = section.replace("| `attempt` | number | required", "| `attempt` | number | 1")
    assert fields_of(optional) != told(native_control.CLIENT["hello"][1])
