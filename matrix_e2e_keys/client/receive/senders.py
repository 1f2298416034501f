"""Who has sent what came out of an Olm session, and how sure one is.

Specification: client-server API, "Verification of the sending user for incoming events".

Facts:

* A ratchet proves one thing: whoever sent the message has the private half of ``sender_key``. Whose key that is, a
  device keys object says that its device signed; whose device that is, only the owner's identity can say.
* How sure one is, is a scale, and no boolean. A failed check is not on it: then there is no sender at all.
* A device is known if each of its two keys has named the other: the holder of the Olm identity key names the
  signing key inside of the encryption, and the signing key has signed device keys with the Olm identity key in them.
* It can be looked at again, with what is known by now: :func:`~matrix_e2e_keys.reassess_sender`. What was once ascribed
  to a device stays ascribed to it.
* That the server does not list a device (any more) takes nothing from it: the signature of its owner counts. Nor does
  it tell anything that the device keys in the message are older or newer than those of the server: signatures have no
  date.
"""

from __future__ import annotations

from collections.abc import Mapping

from matrix_e2e_keys.client.receive.handed_in import check_sender_verifier, known_user, verify_device
from matrix_e2e_keys.client.receive.sender_values import ONLY_RECEIVES, OlmSender, SenderTrust, names_of, new_sender
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, VerificationError, quoted, raised_as
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.identifiers import parse_user_id
from matrix_e2e_keys.json_trees import wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["identify_sender", "owner_of_keys", "reassess_sender"]


def reassess_sender(sender: OlmSender, *, known: Mapping[str, KnownUser], verifier: Verifier = LIBSODIUM) -> OlmSender:
    """Return a sender as one sees it now: its device may be known by now, or its identity be another one.

    Args:
        sender: who has sent something before.
        known: user id to what is known of users.
        verifier: who checks signatures.

    Returns:
        The same sender. One may be surer or less sure than before.

    Raises:
        VerificationError: the device was not known before; and by what is known now, the two keys do not belong
            together, since another device has one of them. Or the device is one that only receives.
        LocalProtocolError: an argument has the wrong type.
    """
    if type(sender) is not OlmSender:
        raise LocalProtocolError(Reason.WRONG_TYPE, "an OlmSender is needed", path="/sender")
    check_sender_verifier(verifier)
    user = known_user(known, sender.user_id)
    if user is None:
        return sender
    keys = (sender.curve25519_key, sender.ed25519_key)
    with raised_as(VerificationError):
        if sender.device is None:
            return identify_sender(user, sender.user_id, *keys, None)
        # Each of its keys has named the other. Nobody who claims one of them now takes that back.
        _refuse_dehydrated(user, keys[1], None)
    device = _of_both_keys(user, *keys, sender.device.device_id)
    if device is None or not device.is_cross_signed:  # what it sent along may have been signed all the same
        device = _better(verify_device(sender.device.keys, identity=user.identity, verifier=verifier), device)
    new = _ascribed(user, *keys, device)
    was_signed = sender.trust.is_at_least(SenderTrust.OWNER_CHANGED) and sender.local_trust is not LocalTrust.VERIFIED
    is_unsigned = new.trust is SenderTrust.DEVICE_KNOWN and new.local_trust is not LocalTrust.BLACKLISTED
    if was_signed and is_unsigned:
        return new_sender(*names_of(new), SenderTrust.OWNER_CHANGED, new.device, new.local_trust)
    return new


def identify_sender(
    user: KnownUser | None,
    user_id: str,
    curve25519_key: Curve25519PublicKey,
    ed25519_key: Ed25519PublicKey,
    sent_along: VerifiedDevice | None,
) -> OlmSender:
    """Internal: return who has a pair of keys.

    Args:
        user: what is known of the user.
        user_id: who says to have sent it; a user id.
        curve25519_key: whose session it was.
        ed25519_key: the signing key that the plaintext names.
        sent_along: the device keys in the plaintext, which were checked against both keys and against the identity of
            the user; ``None`` if there were none.

    Raises:
        Refusal: another device has one of the keys (``SENDER_KEY_MISMATCH``); the device is known with another signing
            key (``SIGNING_KEY_CHANGED``) or under another name (``DEVICE_ID_MISMATCH``); or it only receives
            (``DEHYDRATED_SENDER``).
    """
    _refuse_dehydrated(user, ed25519_key, sent_along)
    if user is None:
        trust = SenderTrust.UNKNOWN_DEVICE if sent_along is None else SenderTrust.DEVICE_KNOWN
        return new_sender(parse_user_id(user_id), curve25519_key, ed25519_key, trust, sent_along, LocalTrust.UNSET)
    if sent_along is not None:
        _check_name(user, sent_along)
    name = None if sent_along is None else sent_along.device_id
    served = _of_both_keys(user, curve25519_key, ed25519_key, name)
    if served is None:
        _refuse_owned(user, curve25519_key, ed25519_key, sent_along)
    return _ascribed(user, curve25519_key, ed25519_key, _better(sent_along, served))


def owner_of_keys(
    user_id: str,
    curve25519_key: Curve25519PublicKey,
    ed25519_key: Ed25519PublicKey,
    *,
    known: Mapping[str, KnownUser],
) -> OlmSender | None:
    """Internal: return who has both keys, by what is known of users: the one of that name, or else somebody else.

    Both keys of a device, by its own signature, are those of nobody else: without the private half of the signing key
    nobody has such a device listed as his own.

    Returns:
        The device as a sender; ``None`` if nobody is known to have both keys.

    Raises:
        LocalProtocolError: ``known`` is no mapping of users.
    """
    user = known_user(known, user_id)
    device = None if user is None else _of_both_keys(user, curve25519_key, ed25519_key, None)
    if user is None or device is None:
        with raised_as(LocalProtocolError), callers_own("known"):
            for other in known.values():
                if type(other) is not KnownUser:
                    raise wrong_type("known must hold values of type KnownUser", other, "known")
                device = _of_both_keys(other, curve25519_key, ed25519_key, None)
                if device is not None:
                    user = other
                    break
    return None if user is None or device is None else _ascribed(user, curve25519_key, ed25519_key, device)


def _refuse_dehydrated(
    user: KnownUser | None, ed25519_key: Ed25519PublicKey, sent_along: VerifiedDevice | None
) -> None:
    """Refuse a device that only receives: its keys lie with the server, under a passphrase.

    Whoever has found them can sign other device keys with them, which do not say what the device is.
    """
    served = () if user is None else [it for it in user.devices.values() if it.ed25519_key == ed25519_key]
    if any(device is not None and device.keys.is_dehydrated for device in (sent_along, *served)):
        raise Refusal(Reason.DEHYDRATED_SENDER, ONLY_RECEIVES)


def _check_name(user: KnownUser, sent_along: VerifiedDevice) -> None:
    """Check that a device does not go by the name of another device, and has no other name."""
    name, key = sent_along.device_id, sent_along.ed25519_key
    pinned = user.devices.get(name)
    if pinned is not None and pinned.ed25519_key != key:
        raise Refusal(Reason.SIGNING_KEY_CHANGED, f"the signing key of {quoted(name)} was another one before")
    others = [device.device_id for device in user.devices.values() if device.ed25519_key == key]
    if others and name not in others:
        raise Refusal(Reason.DEVICE_ID_MISMATCH, f"it calls itself {quoted(name)}, and is {quoted(others[0])}")


def _of_both_keys(
    user: KnownUser, curve25519_key: Curve25519PublicKey, ed25519_key: Ed25519PublicKey, device_id: str | None
) -> VerifiedDevice | None:
    """Return the device of an answer of the server that has both keys, and that name if it is known."""
    # "Note that both the Curve25519 key and the Ed25519 key" have to match.
    found: VerifiedDevice | None = None
    for device in user.devices.values():
        has_both = device.curve25519_key == curve25519_key and device.ed25519_key == ed25519_key
        if has_both and device_id in (None, device.device_id):
            found = _better(found, device)
    return found


def _refuse_owned(
    user: KnownUser,
    curve25519_key: Curve25519PublicKey,
    ed25519_key: Ed25519PublicKey,
    sent_along: VerifiedDevice | None,
) -> None:
    """Refuse a pair of keys of which another device has one.

    An Olm identity key does not sign: any device can name anybody's. So the name that an unsigned device of the server
    gives it does not outweigh the one that a cross-signed device has given it itself.
    """
    is_signed = sent_along is not None and sent_along.is_cross_signed
    for device in user.devices.values():
        is_the_signer = device.ed25519_key == ed25519_key
        is_better = device.is_cross_signed or not is_signed
        if device.curve25519_key == curve25519_key and not is_the_signer and is_better:
            detail = f"the session is that of {quoted(device.device_id)}, whose signing key is another one"
            raise Refusal(Reason.SENDER_KEY_MISMATCH, detail)
        if is_the_signer and sent_along is None:
            detail = f"the signing key is that of {quoted(device.device_id)}, whose Olm identity key is another one"
            raise Refusal(Reason.SENDER_KEY_MISMATCH, detail)


def _better(device: VerifiedDevice | None, other: VerifiedDevice | None) -> VerifiedDevice | None:
    """Return the other device if there is no first one, or only the other is cross-signed."""
    if device is None or (other is not None and other.is_cross_signed and not device.is_cross_signed):
        return other
    return device


def _ascribed(
    user: KnownUser,
    curve25519_key: Curve25519PublicKey,
    ed25519_key: Ed25519PublicKey,
    device: VerifiedDevice | None,
) -> OlmSender:
    local_trust = LocalTrust.UNSET if device is None else user.local_trust.get(ed25519_key, LocalTrust.UNSET)
    trust = _trust(user, device, local_trust)
    return new_sender(parse_user_id(user.user_id), curve25519_key, ed25519_key, trust, device, local_trust)


def _trust(user: KnownUser, device: VerifiedDevice | None, local_trust: LocalTrust) -> SenderTrust:
    if device is None:
        return SenderTrust.UNKNOWN_DEVICE
    if local_trust is LocalTrust.VERIFIED:
        return SenderTrust.VERIFIED
    if local_trust is LocalTrust.BLACKLISTED or not device.is_cross_signed:
        return SenderTrust.DEVICE_KNOWN
    if user.pin.needs_approval or user.collision is not None:
        return SenderTrust.OWNER_CHANGED
    return SenderTrust.VERIFIED if user.pin.is_verified else SenderTrust.UNVERIFIED
