"""The draft of July 2015, as far as it is not a dialect: signatures by homeservers, validity, devices without keys.

Everything is importable from here. The paths and bodies of the draft are the dialect `CLIENT_V2_ALPHA`.
"""

from matrix_e2e_keys.legacy.audit_trail import AuditEntry
from matrix_e2e_keys.legacy.countersignatures import Countersignature, Countersignatures, check_countersignatures
from matrix_e2e_keys.legacy.countersigning import countersign_answer, countersign_device
from matrix_e2e_keys.legacy.keyless_devices import keyless_device, with_keyless_devices
from matrix_e2e_keys.legacy.validity_windows import Validity, legacy_device_keys, validity

__all__ = [
    "AuditEntry",
    "Countersignature",
    "Countersignatures",
    "Validity",
    "check_countersignatures",
    "countersign_answer",
    "countersign_device",
    "keyless_device",
    "legacy_device_keys",
    "validity",
    "with_keyless_devices",
]
