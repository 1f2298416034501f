"""The draft of July 2015, as far as it is not a dialect.

Signatures by homeservers, validity, devices without keys; and events of rooms, encrypted for each device.

Everything is importable from here. The paths and bodies of the draft are the dialect `CLIENT_V2_ALPHA`.
"""

from matrix_e2e_keys.legacy.audit_trail import AuditEntry
from matrix_e2e_keys.legacy.countersignatures import Countersignature, Countersignatures, check_countersignatures
from matrix_e2e_keys.legacy.countersigning import countersign_answer, countersign_device
from matrix_e2e_keys.legacy.fingerprints import (
    FingerprintState,
    Participant,
    ParticipantDifference,
    ParticipantReport,
    participant_fingerprint,
    participants_of,
)
from matrix_e2e_keys.legacy.keyless_devices import keyless_device, with_keyless_devices
from matrix_e2e_keys.legacy.room_judgments import (
    CheckedRoomPayload,
    RoomPayloadCheck,
    RoomPayloadJudgment,
)
from matrix_e2e_keys.legacy.room_payload_checks import check_room_payload
from matrix_e2e_keys.legacy.room_payloads import LegacyRoomPayload
from matrix_e2e_keys.legacy.validity_windows import Validity, legacy_device_keys, validity

__all__ = [
    "AuditEntry",
    "CheckedRoomPayload",
    "Countersignature",
    "Countersignatures",
    "FingerprintState",
    "LegacyRoomPayload",
    "Participant",
    "ParticipantDifference",
    "ParticipantReport",
    "RoomPayloadCheck",
    "RoomPayloadJudgment",
    "Validity",
    "check_countersignatures",
    "check_room_payload",
    "countersign_answer",
    "countersign_device",
    "keyless_device",
    "legacy_device_keys",
    "participant_fingerprint",
    "participants_of",
    "validity",
    "with_keyless_devices",
]
