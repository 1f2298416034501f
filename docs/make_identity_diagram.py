"""Makes the diagram and the table of ``identities.md`` of the table that the library goes by.

``python docs/make_identity_diagram.py`` prints the page, and with ``--write`` replaces it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matrix_e2e_keys import TRANSITIONS, IdentityEvent, IdentityState

PAGE = Path(__file__).parent / "identities.md"
BEGIN, END = "<!-- made by make_identity_diagram.py: begin -->\n", "<!-- end -->\n"


def diagram() -> str:
    """Return the states and the ways between them, without the ways that lead back to where they begin."""
    lines = ["stateDiagram-v2", "    direction LR"]
    lines += [f'    state "{state}" as {state.name.lower()}' for state in IdentityState]
    ways: dict[tuple[IdentityState, IdentityState], list[IdentityEvent]] = {}
    for (before, event), after in TRANSITIONS.items():
        if before is not after:
            ways.setdefault((before, after), []).append(event)
    lines.append(f"    [*] --> {IdentityState.UNKNOWN.name.lower()}")
    for (before, after), events in ways.items():
        lines.append(f"    {before.name.lower()} --> {after.name.lower()} : {' / '.join(map(_words, events))}")
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def table() -> str:
    """Return the whole table: a row for each state, a column for each event."""
    lines = [f"| state | {' | '.join(map(_words, IdentityEvent))} |", "| --- " * (len(IdentityEvent) + 1) + "|"]
    for state in IdentityState:
        row = [str(TRANSITIONS.get((state, event), "")) for event in IdentityEvent]
        lines.append(f"| **{state}** | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _words(event: IdentityEvent) -> str:
    return event.replace("-", " ")


def page() -> str:
    """Return the page with its diagram and table as they should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{diagram()}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
