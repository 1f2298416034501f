"""What a message to this device is worth, once a ratchet has decrypted it: every check around the ratchet.

Specification: client-server API, "Validation of incoming decrypted events" (since v1.15, corrected in v1.19),
"Verification of the sending user for incoming events".

Facts:

* "Any event that does not comply with these checks MUST be discarded." All of them are made, and all that failed are
  named, also where the first was enough: somebody will have to find out what is wrong.
* A ratchet knows keys, and no users. That the event is from whom it says, and for this device, follows from what is
  named inside *and* outside of the encryption.
* Without device keys, neither in the message nor from the server, the second check cannot be made yet. Then the sender
  is an unknown device: nothing that needs a sender may be believed before :func:`~matrix_e2e_keys.reassess_sender`.
* Nothing is remembered here. That a message comes once only is for the ratchet to see to, which opens each one once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

from attrs import define

from matrix_e2e_keys.client.receive.handed_in import (
    check_sender_verifier,
    known_user,
    own_identity_key,
    verify_device,
)
from matrix_e2e_keys.client.receive.olm_judgments import OlmCheck, OlmJudgment, new_decrypted_event
from matrix_e2e_keys.client.receive.sender_values import OlmSender
from matrix_e2e_keys.client.receive.senders import identify_sender
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.members import json_object
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    VerificationError,
    json_pointer,
    quoted,
)
from matrix_e2e_keys.events.contents import Member, passed_on
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    MegolmEncryptedContent,
    OlmEncryptedContent,
    read_encrypted_content,
)
from matrix_e2e_keys.events.judgments import Inspection
from matrix_e2e_keys.events.payloads import MSC4147_DEVICE_KEYS, SENDER_DEVICE_KEYS, OlmPayload
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import object_in
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["check_olm_event", "open_olm_event"]

T = TypeVar("T")

_NEEDS_DEVICE_KEYS: Final = frozenset({"m.room_key_bundle"})

_OF_DEVICE_KEYS: Final = frozenset(check for check in OlmCheck if check.startswith(OlmCheck.DEVICE_KEYS))


def open_olm_event(event: ToDeviceEvent, *, own: VerifiedDevice) -> OlmEncryptedContent:
    """Return the content of an encrypted message to this device, for a ratchet to decrypt.

    ``content.my_ciphertext(own.curve25519_key)`` is what to decrypt, with the sessions of ``content.sender_key``.

    Args:
        event: the event.
        own: this device.

    Raises:
        RemoteProtocolError: it is no ``m.room.encrypted``, or not of Olm, which alone may be sent to devices; or has no
            message for this device; or a pre-key message names another identity key than the content.
        LocalProtocolError: an argument has the wrong type.
    """
    _check_event(event)
    own_key = own_identity_key(own)
    if event.type != ENCRYPTED:
        raise RemoteProtocolError(Reason.NOT_ENCRYPTED, f"{quoted(event.type)} is not an encrypted event")
    content = read_encrypted_content(event.content)
    if isinstance(content, MegolmEncryptedContent):
        # Whoever has a room's session could otherwise speak to a device as if it were its user.
        detail = "what is sent to a device is not encrypted with a session that a whole room has"
        raise RemoteProtocolError(Reason.WRONG_ALGORITHM, detail, path="/algorithm")
    if not isinstance(content, OlmEncryptedContent):
        detail = f"the algorithm {quoted(content.algorithm)} is not known"
        raise RemoteProtocolError(Reason.UNSUPPORTED_ALGORITHM, detail, path="/algorithm")
    header = content.my_ciphertext(own_key).pre_key_header
    if header is not None and header.identity_key != content.sender_key:
        detail = "the message is from another identity key than the content says"
        raise RemoteProtocolError(Reason.SENDER_KEY_MISMATCH, detail, path="/sender_key")
    return content


def check_olm_event(
    event: ToDeviceEvent,
    plaintext: bytes,
    *,
    own: VerifiedDevice,
    known: Mapping[str, KnownUser],
    verifier: Verifier = LIBSODIUM,
) -> OlmJudgment:
    """Check what came out of an Olm message.

    Args:
        event: the event as the server delivered it. A ratchet has decrypted its message for this device, with a session
            of its ``sender_key``.
        plaintext: what came out.
        own: this device.
        known: user id to what is known of users, oneself among them.
        verifier: who checks signatures.

    Returns:
        The event, with who has sent it and how sure one is; or every check that failed.

    Raises:
        LocalProtocolError: an argument has the wrong type, or the verifier has not answered.
    """
    _check_event(event)
    own_identity_key(own)
    check_sender_verifier(verifier)
    if type(plaintext) not in (bytes, bytearray):
        raise LocalProtocolError(Reason.WRONG_TYPE, "the plaintext must be bytes", path="/plaintext")
    user = known_user(known, event.sender)
    return _Inspection(event=event, own=own, user=user, verifier=verifier).judge(bytes(plaintext))


def _check_event(event: object) -> None:
    if type(event) is not ToDeviceEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a ToDeviceEvent is needed", path="/event")


@define(kw_only=True)
class _Inspection(Inspection[OlmCheck]):
    """One event under inspection."""

    members: ClassVar[Mapping[str, Member]] = OlmPayload.members

    event: ToDeviceEvent
    own: VerifiedDevice
    user: KnownUser | None
    verifier: Verifier

    def judge(self, plaintext: bytes) -> OlmJudgment:
        """Make every check that can be made."""
        envelope = self._envelope()
        tree = self.trying(OlmCheck.PLAINTEXT, lambda: object_in(parse_frame(plaintext), "the plaintext"))
        if tree is None:
            return self._refused()
        self._settle_names(tree)
        event_type: str | None = self.member(tree, "type", OlmCheck.PLAINTEXT)
        content = self.member(tree, "content", OlmCheck.PLAINTEXT)
        self._check_inside(tree, event_type)
        self._check_users(tree)
        keys: Ed25519PublicKey | None = self.member(tree, "keys", OlmCheck.KEYS)
        device = self._sender_device_keys(tree, event_type, envelope, keys)
        others = {name: value for name, value in tree.items() if name not in OlmPayload.members}
        extra = self.trying(OlmCheck.PLAINTEXT, lambda: json_object(passed_on(others), "the plaintext"))
        sender = None if envelope is None or keys is None else self._sender(envelope, keys, device)
        if envelope is None or self.failed:
            return self._refused()
        header = envelope.my_ciphertext(own_identity_key(self.own)).pre_key_header
        one_time_key = None if header is None else header.one_time_key
        return OlmJudgment(event=new_decrypted_event(event_type, content, sender, one_time_key, extra))

    def _sender(
        self, envelope: OlmEncryptedContent, keys: Ed25519PublicKey, device: VerifiedDevice | None
    ) -> OlmSender | None:
        """Return who has sent it."""
        if envelope.sender_key == self.own.curve25519_key or keys == self.own.ed25519_key:
            # This device sends nothing to itself, and nobody else has its keys.
            detail = "the message is from this device itself, or from one that claims its keys"
            self.fail(OlmCheck.SENDER_DEVICE, Reason.KEY_REUSED, detail, "keys", "ed25519")
            return None
        if device is not None and (device.user_id, device.device_id) == (self.own.user_id, self.own.device_id):
            detail = "the device goes by the name of this device, and has other keys"
            self._fail_device(OlmCheck.SENDER_DEVICE, Reason.OWN_DEVICE_ALTERED, detail, "device_id")
            return None
        try:
            return identify_sender(self.user, self.event.sender, envelope.sender_key, keys, device)
        except Refusal as refusal:
            is_other_key = refusal.reason is Reason.SENDER_KEY_MISMATCH
            check = OlmCheck.KEYS if is_other_key else OlmCheck.SENDER_DEVICE
            self.fail(check, refusal.reason, refusal.detail, "keys", "ed25519")
            return None

    def _envelope(self) -> OlmEncryptedContent | None:
        return self.trying(OlmCheck.ENVELOPE, lambda: open_olm_event(self.event, own=self.own))

    def _settle_names(self, tree: dict[str, Any]) -> None:
        """Put the device keys under their name of today. Under both names, they have to be the same."""
        if MSC4147_DEVICE_KEYS in tree:
            unstable = tree.pop(MSC4147_DEVICE_KEYS)
            if tree.setdefault(SENDER_DEVICE_KEYS, unstable) != unstable:
                detail = "there are two device keys of the sender"
                self.fail(OlmCheck.DEVICE_KEYS, Reason.DUPLICATE_MEMBER, detail, MSC4147_DEVICE_KEYS)

    def _check_inside(self, tree: dict[str, Any], event_type: str | None) -> None:
        if event_type == ENCRYPTED:
            self.fail(OlmCheck.INSIDE, Reason.NESTED_ENCRYPTION, "it is encrypted once more", "type")
        if "state_key" in tree:
            self.fail(OlmCheck.INSIDE, Reason.STATE_EVENT, "state events are not sent to devices", "state_key")

    def _check_users(self, tree: dict[str, Any]) -> None:
        sender = self.member(tree, "sender", OlmCheck.SENDER)
        if sender is not None and sender != self.event.sender:
            # "The sender property in the decrypted content must match the sender of the event."
            detail = f"the message is from {quoted(sender)}, the event from {quoted(self.event.sender)}"
            self.fail(OlmCheck.SENDER, Reason.SENDER_MISMATCH, detail, "sender")
        recipient = self.member(tree, "recipient", OlmCheck.RECIPIENT)
        if recipient is not None and recipient != self.own.user_id:
            # "must match the user ID of the local user"
            self.fail(
                OlmCheck.RECIPIENT, Reason.RECIPIENT_MISMATCH, f"the message is for {quoted(recipient)}", "recipient"
            )
        key = self.member(tree, "recipient_keys", OlmCheck.RECIPIENT_KEYS)
        if key is not None and key != self.own.ed25519_key:
            # "must match the client device's Ed25519 signing key"
            detail = "the message is for another device, or for one that this device was before"
            self.fail(OlmCheck.RECIPIENT_KEYS, Reason.RECIPIENT_KEY_MISMATCH, detail, "recipient_keys", "ed25519")

    def _sender_device_keys(
        self,
        tree: dict[str, Any],
        event_type: str | None,
        envelope: OlmEncryptedContent | None,
        keys: Ed25519PublicKey | None,
    ) -> VerifiedDevice | None:
        """Return the device whose keys came along, if they are good."""
        if SENDER_DEVICE_KEYS not in tree:
            if event_type in _NEEDS_DEVICE_KEYS:
                detail = f"{quoted(event_type)} needs {SENDER_DEVICE_KEYS}"
                self.fail(OlmCheck.DEVICE_KEYS, Reason.MISSING_MEMBER, detail)
            return None
        sent: DeviceKeys | None = self.member(tree, SENDER_DEVICE_KEYS, OlmCheck.DEVICE_KEYS)
        if sent is None:
            return None
        if sent.user_id != self.event.sender:
            # "sender_device_keys.user_id must also match the sender of the event"
            detail = f"the device keys are those of {quoted(sent.user_id)}"
            self._fail_device(OlmCheck.DEVICE_KEYS_USER, Reason.USER_ID_MISMATCH, detail, "user_id")
        if envelope is not None and sent.curve25519_key != envelope.sender_key:
            # "must match the sender_key property in the cleartext m.room.encrypted event body"
            detail = "the Olm identity key of the device is not that of the session"
            place = f"curve25519:{sent.device_id}"
            self._fail_device(OlmCheck.DEVICE_KEYS_CURVE25519, Reason.SENDER_KEY_MISMATCH, detail, "keys", place)
        if keys is not None and sent.ed25519_key != keys:
            # "must be the same as the keys.ed25519 property in the decrypted content"
            detail = "the signing key of the device is not the one that the message names"
            place = f"ed25519:{sent.device_id}"
            self._fail_device(OlmCheck.DEVICE_KEYS_ED25519, Reason.SENDER_KEY_MISMATCH, detail, "keys", place)
        # It "must have a valid signature" from the device's own key.
        identity = None if self.user is None else self.user.identity
        verified: VerifiedDevice | None = None
        try:
            verified = verify_device(sent, identity=identity, verifier=self.verifier)
        except VerificationError as error:
            at = VerificationError(error.reason, error.detail, path=json_pointer([SENDER_DEVICE_KEYS]) + error.path)
            self.file(OlmCheck.DEVICE_KEYS_SIGNATURE, at)
        return None if _OF_DEVICE_KEYS.intersection(it.check for it in self.failed) else verified

    def _fail_device(self, check: OlmCheck, reason: Reason, detail: str, *at: str) -> None:
        self.fail(check, reason, detail, SENDER_DEVICE_KEYS, *at)

    def _refused(self) -> OlmJudgment:
        return OlmJudgment(event=None, failed=self.in_order())
