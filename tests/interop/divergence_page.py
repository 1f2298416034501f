"""The page of the manual that is made of the table: ``python -m interop.divergence_page`` in ``tests`` prints it."""

from __future__ import annotations

from typing import Final

from interop.divergences import DIVERGENCES, FORMS

__all__ = ["page"]

_REQUESTS: Final = {
    "upload": "`/keys/upload`",
    "query": "`/keys/query`",
    "claim": "`/keys/claim`",
    "device_signing": "`/keys/device_signing/upload`",
    "signatures": "`/keys/signatures/upload`",
    "sync": "`/sync`",
    "changes": "`/keys/changes`",
    "log_in": "log in",
    "rename": "rename a device",
}
_HEAD: Final = """\
# Where servers answer differently

The interoperability suite sends the same requests to `KeyDirectory`, under the policy `COMPAT`, and to a homeserver that is
widely deployed, two of each, and compares every answer. Where they differ, the difference is a row of a table in the tests.
One that is in no row fails the tests, and so does a row whose difference does not show. These are the rows: what is
answered here, and what the specification says.

| request | input | here | the specification |
| --- | --- | --- | --- |
"""
_FORMS: Final = """
## The same in other words

| request | input | here | the specification |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page."""
    rows, forms = (
        "".join(f"| {_REQUESTS[row.kind]} | {row.input} | {row.here} | {row.why} |\n" for row in table)
        for table in (DIVERGENCES, FORMS)
    )
    return _HEAD + rows + _FORMS + forms


if __name__ == "__main__":
    print(page(), end="")
