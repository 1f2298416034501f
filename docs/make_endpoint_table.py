"""Makes the tables of ``endpoints.md`` of the table that the library goes by.

``python docs/make_endpoint_table.py`` prints the page, and with ``--write`` replaces it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matrix_e2e_keys import ENDPOINTS, Dialect

PAGE = Path(__file__).parent / "endpoints.md"
BEGIN, END = "<!-- made by make_endpoint_table.py: begin -->\n", "<!-- end -->\n"


def endpoint_table() -> str:
    """Return the endpoints, each with its path in every dialect that has it."""
    lines = ["| endpoint | classes | authentication | dialect | request |", "| --- | --- | --- | --- | --- |"]
    for endpoint in ENDPOINTS.values():
        classes = "".join(part.capitalize() for part in endpoint.name.split("_"))
        query = "?" + "&".join(f"{name}={{{name}}}" for name in endpoint.query) if endpoint.query else ""
        first = [f"`{endpoint.name}`", f"`{classes}Request`, `{classes}Response`", endpoint.authentication.value]
        for dialect in endpoint.paths:
            request = f"`{endpoint.method} {endpoint.template(dialect)}{query}`"
            lines.append(f"| {' | '.join([*first, dialect.name, request])} |")
            first = ["", "", ""]
    return "\n".join(lines) + "\n"


def dialect_table() -> str:
    """Return the dialects, each with what it lacks."""
    dialects: dict[Dialect, list[str]] = {}
    for endpoint in ENDPOINTS.values():
        for dialect in endpoint.paths:
            dialects.setdefault(dialect, []).append(endpoint.name)
    lines = ["| dialect | prefix | endpoints | lacks |", "| --- | --- | --- | --- |"]
    for dialect, names in dialects.items():
        lacks = [f"`{name}`" for name in sorted(dialect.lacks)]
        lacks += ["signed one-time keys"] * dialect.bare_one_time_keys
        lines.append(f"| {dialect.name} | `{dialect.prefix}` | {len(names)} | {', '.join(lacks) or 'nothing'} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with its tables as they should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{dialect_table()}\n{endpoint_table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
