"""Divergences in answers to ``/keys/upload``."""

from __future__ import annotations

import json
from typing import Final

from interop.divergence import (
    MEMBERS,
    SILENT,
    Divergence,
    depth,
    has_beyond,
    has_surrogate,
    key_ids,
    objects,
    part,
    times_uploaded,
    uploaded_keys,
    verdicts,
)
from interop.model_comparison import ABSENT
from interop.model_world import NO_VERDICT

UPLOAD: Final = [
    Divergence(
        name="device-keys-lack-a-member",
        kind="upload",
        input="device keys without `algorithms`, `device_id`, `keys`, `signatures` or `user_id`",
        here="400 M_BAD_JSON",
        why='`M_BAD_JSON`: "malformed in some way, e.g. missing required keys"; `M_MISSING_PARAM`: "A required parameter '
        'was missing from the request."',
        covers=verdicts(
            "400 M_BAD_JSON",
            "400 M_MISSING_PARAM",
            lambda body: any(name not in part(body, "device_keys") for name in MEMBERS),
        ),
    ),
    Divergence(
        name="device-keys-null",
        kind="upload",
        input="`device_keys: null`",
        here="400 M_BAD_JSON",
        why='"May be absent if no new identity keys are required." Of `null`: silent.',
        covers=verdicts("400 M_BAD_JSON", "400 M_INVALID_PARAM", lambda body: body.get("device_keys", ABSENT) is None),
    ),
    Divergence(
        name="number-without-canonical-form",
        kind="upload",
        input="a float, or an integer beyond 2^53 - 1, in device keys or one-time keys",
        here="400 M_BAD_JSON",
        why='Appendices, "Canonical JSON": "Float values are not permitted by this encoding."',
        covers=verdicts("400 M_BAD_JSON", "200", has_beyond),
        parts=True,
    ),
    Divergence(
        name="lone-surrogate",
        kind="upload",
        input="a lone surrogate in device keys",
        here="400 M_BAD_JSON",
        why="Silent; such a string has no UTF-8 form, and so no canonical JSON.",
        covers=verdicts("400 M_BAD_JSON", NO_VERDICT, has_surrogate),
    ),
    Divergence(
        name="deep-object",
        kind="upload",
        input="more than 100 levels in an object",
        here="400 M_BAD_JSON",
        why=SILENT,
        covers=verdicts("400 M_BAD_JSON", "200", lambda body: any(depth(obj) > 100 for obj in objects(body))),
        parts=True,
    ),
    Divergence(
        name="large-object",
        kind="upload",
        input="more than 65536 bytes in an object",
        here="400 M_TOO_LARGE",
        why='Silent on the size of keys; `M_TOO_LARGE`: "The request or entity was too large."',
        covers=verdicts(
            "400 M_TOO_LARGE", "200", lambda body: any(len(json.dumps(obj)) > 65_536 for obj in objects(body))
        ),
        parts=True,
    ),
    Divergence(
        name="not-a-number",
        kind="upload",
        input="`NaN` in a member that the specification does not name",
        here="200",
        why='`M_NOT_JSON`: "Request did not contain valid JSON."',
        covers=verdicts("200", "400 M_NOT_JSON", lambda body: isinstance(body, bytes) and b"NaN" in body),
    ),
    Divergence(
        name="key-id-with-an-empty-part",
        kind="upload",
        input="a one-time key called `:`, `:a` or `a:`, or with a NUL in its name",
        here="400 M_BAD_JSON",
        why='"The names of the properties should be in the format `<algorithm>:<key_id>`."',
        covers=verdicts(
            "400 M_BAD_JSON",
            "200",
            lambda body: key_ids(body, lambda name: name[:1] == ":" or name[-1:] == ":" or "\0" in name),
        ),
        parts=True,
    ),
    Divergence(
        name="long-key-id",
        kind="upload",
        input="a one-time key whose name has more than 512 bytes",
        here="400 M_TOO_LARGE",
        why=SILENT,
        covers=verdicts("400 M_TOO_LARGE", "200", lambda body: key_ids(body, lambda name: len(name) > 512)),
        parts=True,
    ),
    Divergence(
        name="fallback-null",
        kind="upload",
        input="`fallback: null` in a one-time key",
        here="400 M_BAD_JSON",
        why="`fallback` is a boolean.",
        covers=verdicts(
            "400 M_BAD_JSON",
            "200",
            lambda body: any(
                isinstance(key, dict) and key.get("fallback", ABSENT) is None for key in uploaded_keys(body).values()
            ),
        ),
        parts=True,
    ),
    Divergence(
        name="keys-no-object",
        kind="upload",
        input="`one_time_keys` or `fallback_keys` is a number, a string, a boolean or an array",
        here="400 M_BAD_JSON",
        why='Both are objects; `M_BAD_JSON`: "malformed in some way, e.g. [...] invalid values for keys".',
        covers=verdicts(
            "400 M_BAD_JSON",
            NO_VERDICT,
            lambda body: any(
                not isinstance(body.get(name, {}), dict | None) for name in ("one_time_keys", "fallback_keys")
            ),
        ),
    ),
    Divergence(
        name="many-keys-at-once",
        kind="upload",
        input="more than 1000 one-time keys in one upload",
        here="400 M_TOO_LARGE",
        why=SILENT,
        covers=verdicts("400 M_TOO_LARGE", "200", lambda body: len(uploaded_keys(body)) > 1000),
        parts=True,
    ),
    Divergence(
        name="many-algorithms",
        kind="upload",
        input="one-time keys of more than 20 algorithms",
        here="400 M_TOO_LARGE",
        why=SILENT,
        covers=verdicts(
            "400 M_TOO_LARGE", "200", lambda body: len({name.split(":")[0] for name in uploaded_keys(body)}) > 20
        ),
        parts=True,
    ),
    Divergence(
        name="same-key-again",
        kind="upload",
        input="a one-time key that was claimed before, or is held under another id",
        here="200, and it is not stored once more",
        why='"Servers must ensure that each one-time key is returned at most once, so when a key has been returned, no '
        'other request will ever return the same key."',
        covers=lambda seen, difference: difference.path[0] == "one_time_key_counts" and times_uploaded(seen),
        parts=True,
    ),
]
