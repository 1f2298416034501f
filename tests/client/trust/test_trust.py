"""Why a device is trusted or not: each link from oneself to it, and what becomes of the verdict without it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys.client.queries.query import QueryResult, check_query
from matrix_e2e_keys.client.trust.trust import DeviceTrust, TrustProof, device_trust, explain_device, explain_user
from matrix_e2e_keys.client.trust.trust_links import KeyName, KeyRole, LinkVerdict, TrustLink
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.signing.signed_json import verify_json
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, SignatureCheck
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values
from matrix_e2e_keys.unpadded_base64 import decode

ME = SampleUser("@me:a.example")
BOB = SampleUser("@bob:b.example")
ME_RESET = SampleUser(ME.user_id, 1)
BOB_RESET = SampleUser(BOB.user_id, 1)

V = LinkVerdict
OTHER_SIGNATURE = sample_secret_key("somebody").sign(b"something").to_base64()

Place = tuple[str, ...]
MY_USK: Place = ("user_signing_keys", ME.user_id)
MY_SSK: Place = ("self_signing_keys", ME.user_id)
BOBS_MSK: Place = ("master_keys", BOB.user_id)
BOBS_SSK: Place = ("self_signing_keys", BOB.user_id)
BOBS_PHONE: Place = ("device_keys", BOB.user_id, "PHONE")


def key_name(user: SampleUser, usage: str) -> str:
    return f"ed25519:{user.secret(usage).public_key.to_base64()}"


SIGNERS: dict[Place, tuple[str, str]] = {
    MY_USK: (ME.user_id, key_name(ME, "master")),
    MY_SSK: (ME.user_id, key_name(ME, "master")),
    BOBS_MSK: (ME.user_id, key_name(ME, "user_signing")),
    BOBS_SSK: (BOB.user_id, key_name(BOB, "master")),
    BOBS_PHONE: (BOB.user_id, key_name(BOB, "self_signing")),
}


def answer(me: SampleUser = ME, bob: SampleUser = BOB, *, verified_by: SampleUser | None = ME) -> dict[str, Any]:
    """An answer about oneself and Bob, whom one has verified. The server has added EVIL to his devices."""
    devices = [bob.device("PHONE"), bob.device("EVIL", cross_signed=False)]
    body: dict[str, Any] = keys_query_answer([(me, [me.device("ONE")]), (bob, devices)], viewer=me.user_id)
    if verified_by is not None:
        body["master_keys"][bob.user_id] = verified_by.verified(bob.master_key).to_json()
    return body


def broken_at(body: dict[str, Any], place: Place, how: str) -> dict[str, Any]:
    """The same answer with one signature dropped or altered."""
    body = copy.deepcopy(body)
    obj = body
    for name in place:
        obj = obj[name]
    entity, key_id = SIGNERS[place]
    assert key_id in obj["signatures"][entity]
    if how == "dropped":
        del obj["signatures"][entity][key_id]
    elif how == "altered":
        obj["signatures"][entity][key_id] = OTHER_SIGNATURE
    else:
        obj["signatures"][entity][key_id] = "?"
    return body


def judge(
    body: dict[str, Any], *, known: Mapping[str, KnownUser] | None = None, own: OwnIdentity | None = None
) -> QueryResult:
    request = KeysQueryRequest.for_users([ME.user_id, BOB.user_id])
    known = {} if known is None else known
    return check_query(request, KeysQueryResponse.from_json(body), own_user_id=ME.user_id, own=own, known=known)


def own_identity(user: SampleUser = ME, *, with_user_signing_key: bool = True) -> OwnIdentity:
    identity = UserIdentity.verify(
        master_key=user.master_key,
        self_signing_key=user.self_signing_key,
        user_signing_key=user.user_signing_key if with_user_signing_key else None,
    )
    return identity.confirm_as_own(master_key=user.master_public_key)


OWN = own_identity()


def known_after(body: dict[str, Any], own: OwnIdentity | None = OWN) -> Mapping[str, KnownUser]:
    return judge(body, own=own).known


def bob_verified() -> KnownUser:
    return known_after(answer())[BOB.user_id]


def names(links: Sequence[TrustLink]) -> list[tuple[str, str | None, LinkVerdict]]:
    """Each link as whose key, by whose key, and whether it holds."""
    return [
        (
            f"{link.key.user_id[1:-10]} {link.key.role}",
            None if link.signer is None else f"{link.signer.user_id[1:-10]} {link.signer.role}",
            link.verdict,
        )
        for link in links
    ]


def findings(proof: TrustProof) -> list[tuple[str, str | None, LinkVerdict, Reason | None]]:
    return [(*name, link.reason) for name, link in zip(names(proof.broken), proof.broken, strict=True)]


class TestTheWholeWay:
    def test_to_a_verified_device(self) -> None:
        proof = explain_device(bob_verified(), "PHONE", own=OWN)
        assert (proof.user_id, proof.device_id, proof.verdict) == (BOB.user_id, "PHONE", DeviceTrust.VERIFIED)
        assert proof.broken == ()
        assert names(proof.links) == [
            ("me master", None, V.CONFIRMED),
            ("me user_signing", "me master", V.GOOD),
            ("bob master", "me user_signing", V.GOOD),
            ("bob master", None, V.PINNED),
            ("bob self_signing", "bob master", V.GOOD),
            ("bob device", "bob self_signing", V.GOOD),
            ("bob device", "bob device", V.GOOD),
        ]
        assert all(link.reason is None for link in proof.links)

    def test_each_link_names_the_keys_and_holds_the_signature_as_it_was_received(self) -> None:
        body = answer()
        links = explain_device(known_after(body)[BOB.user_id], "PHONE", own=OWN).links
        places = (MY_USK, BOBS_MSK, BOBS_SSK, BOBS_PHONE)
        by_signature = [link for link in links if link.signer is not None and link.signer != link.key]
        for link, place in zip(by_signature, places, strict=True):
            obj: Any = body
            for name in place:
                obj = obj[name]
            assert link.signer is not None
            assert SIGNERS[place] == (link.signer.user_id, link.signer.key_id)
            assert link.signature == obj["signatures"][link.signer.user_id][link.signer.key_id]
            assert link.key.key_id in obj["keys"]
            assert link.key.user_id == place[1]
        assert links[-1].key == links[-1].signer == KeyName(user_id=BOB.user_id, role="device", key_id="ed25519:PHONE")
        assert [link.signature for link in links if link.signer is None] == [None, None]

    def test_to_a_device_of_ones_own(self) -> None:
        me = known_after(answer())[ME.user_id]
        proof = explain_device(me, "ONE", own=OWN)
        assert (proof.verdict, proof.broken) == (DeviceTrust.VERIFIED, ())
        assert names(proof.links) == [
            ("me master", None, V.CONFIRMED),
            ("me self_signing", "me master", V.GOOD),
            ("me device", "me self_signing", V.GOOD),
            ("me device", "me device", V.GOOD),
        ]

    def test_to_a_user(self) -> None:
        known = known_after(answer())
        proof = explain_user(known[BOB.user_id], own=OWN)
        assert (proof.user_id, proof.device_id) == (BOB.user_id, None)
        assert (proof.verdict, proof.broken) == (IdentityState.VERIFIED, ())
        assert proof.links == explain_device(known[BOB.user_id], "PHONE", own=OWN).links[:-2]

    def test_to_a_user_without_an_identity(self) -> None:
        proof = explain_user(KnownUser(user_id=BOB.user_id), own=OWN)
        assert (proof.verdict, proof.links) == (IdentityState.UNKNOWN, ())
        assert proof.to_text() == "'@bob:b.example': unknown"

    def test_to_a_device_the_server_has_added(self) -> None:
        """Attack 35: nobody but the server says that it is Bob's."""
        bob = bob_verified()
        proof = explain_device(bob, "EVIL", own=OWN)
        assert proof.verdict is device_trust(bob, "EVIL") is DeviceTrust.NOT_CROSS_SIGNED
        assert findings(proof) == [("bob device", "bob self_signing", V.MISSING, Reason.MISSING_SIGNATURE)]


NOT_KNOWN = ("bob master", None, V.MISSING, Reason.MISSING_KEY)
NOT_SIGNED_BY_OWNER = ("bob device", "bob self_signing", V.MISSING, Reason.MISSING_SELF_SIGNING_KEY)
BROKEN = {
    (MY_USK, "dropped"): (DeviceTrust.CROSS_SIGNED, NOT_KNOWN),
    (MY_USK, "altered"): (DeviceTrust.CROSS_SIGNED, NOT_KNOWN),
    (MY_SSK, "dropped"): (DeviceTrust.CROSS_SIGNED, NOT_KNOWN),
    (MY_SSK, "altered"): (DeviceTrust.CROSS_SIGNED, NOT_KNOWN),
    (BOBS_MSK, "dropped"): (
        DeviceTrust.CROSS_SIGNED,
        ("bob master", "me user_signing", V.MISSING, Reason.MISSING_SIGNATURE),
    ),
    (BOBS_MSK, "altered"): (
        DeviceTrust.CROSS_SIGNED,
        ("bob master", "me user_signing", V.BAD, Reason.INVALID_SIGNATURE),
    ),
    (BOBS_MSK, "garbled"): (
        DeviceTrust.CROSS_SIGNED,
        ("bob master", "me user_signing", V.BAD, Reason.INVALID_SIGNATURE),
    ),
    (BOBS_SSK, "dropped"): (DeviceTrust.NOT_CROSS_SIGNED, NOT_SIGNED_BY_OWNER),
    (BOBS_SSK, "altered"): (DeviceTrust.NOT_CROSS_SIGNED, NOT_SIGNED_BY_OWNER),
    (BOBS_PHONE, "dropped"): (
        DeviceTrust.NOT_CROSS_SIGNED,
        ("bob device", "bob self_signing", V.MISSING, Reason.MISSING_SIGNATURE),
    ),
    (BOBS_PHONE, "altered"): (
        DeviceTrust.NOT_CROSS_SIGNED,
        ("bob device", "bob self_signing", V.BAD, Reason.INVALID_SIGNATURE),
    ),
    (BOBS_PHONE, "garbled"): (
        DeviceTrust.NOT_CROSS_SIGNED,
        ("bob device", "bob self_signing", V.BAD, Reason.INVALID_SIGNATURE),
    ),
}


class Denying:
    """A verifier to whom one signature is never good."""

    def __init__(self, signature: str | None) -> None:
        self.denied = None if signature is None else decode(signature)

    def verify_many(self, checks: Sequence[SignatureCheck], /) -> list[bool]:
        good = LIBSODIUM.verify_many(checks)
        return [answer and check[2] != self.denied for answer, check in zip(good, checks, strict=True)]


class TestWithoutALink:
    @pytest.mark.parametrize(("place", "how"), BROKEN, ids=lambda it: it if isinstance(it, str) else "-".join(it))
    def test_that_was_never_there(self, place: Place, how: str) -> None:
        """Attack 32: a client that starts with such an answer does not take the device for verified."""
        body = broken_at(answer(), place, how)
        identity = judge(body).identities.accepted.get(ME.user_id)
        own = None if identity is None else identity.confirm_as_own(master_key=ME.master_public_key)
        assert (own is None) is (place == MY_SSK)
        bob = known_after(body, own)[BOB.user_id]
        proof = explain_device(bob, "PHONE", own=own)
        verdict, finding = BROKEN[place, how]
        assert (proof.verdict, findings(proof)) == (verdict, [finding])
        assert device_trust(bob, "PHONE") is verdict

    @pytest.mark.parametrize("index", range(7))
    def test_whatever_the_verifier_says_no_to(self, index: int) -> None:
        """Attack 32: dropping any link flips the verdict, of the device and of the user."""
        bob = bob_verified()
        link = explain_device(bob, "PHONE", own=OWN).links[index]
        if link.signature is None:
            return
        proof = explain_device(bob, "PHONE", own=OWN, verifier=Denying(link.signature))
        is_about_user = index < 5
        assert proof.verdict is not DeviceTrust.VERIFIED
        assert findings(proof) == [
            (*names([link])[0][:2], V.BAD, Reason.INVALID_SIGNATURE),
        ]
        of_user = explain_user(bob, own=OWN, verifier=Denying(link.signature))
        expected = IdentityState.VERIFICATION_LOST if is_about_user else IdentityState.VERIFIED
        assert (of_user.verdict, bool(of_user.broken)) == (expected, is_about_user)

    @pytest.mark.parametrize(("index", "verdict"), [(1, "cross-signed"), (2, "cross-signed"), (4, "not-cross-signed")])
    def test_says_how_far_one_gets(self, index: int, verdict: str) -> None:
        bob = bob_verified()
        verifier = Denying(explain_device(bob, "PHONE", own=OWN).links[index].signature)
        assert explain_device(bob, "PHONE", own=OWN, verifier=verifier).verdict == verdict

    def test_a_device_whose_own_signature_is_bad_is_nobodys(self) -> None:
        bob = bob_verified()
        verifier = Denying(explain_device(bob, "PHONE", own=OWN).links[-1].signature)
        assert explain_device(bob, "PHONE", own=OWN, verifier=verifier).verdict is DeviceTrust.NOT_CROSS_SIGNED

    def test_without_ones_own_identity(self) -> None:
        """Attack 32: what was verified before does not count where one does not know who one is."""
        bob = bob_verified()
        assert device_trust(bob, "PHONE") is DeviceTrust.VERIFIED
        proof = explain_device(bob, "PHONE", own=None)
        assert (proof.verdict, findings(proof)) == (DeviceTrust.CROSS_SIGNED, [NOT_KNOWN])
        assert names(proof.links)[:2] == [("bob master", None, V.MISSING), ("bob master", None, V.PINNED)]
        of_user = explain_user(bob, own=None)
        assert (of_user.verdict, findings(of_user)) == (IdentityState.VERIFICATION_LOST, [NOT_KNOWN])

    def test_without_ones_own_user_signing_key(self) -> None:
        proof = explain_device(bob_verified(), "PHONE", own=own_identity(with_user_signing_key=False))
        assert (proof.verdict, findings(proof)) == (DeviceTrust.CROSS_SIGNED, [NOT_KNOWN])
        assert names(proof.links)[:2] == [("me master", None, V.CONFIRMED), ("bob master", None, V.MISSING)]

    def test_after_one_has_reset_ones_own_identity(self) -> None:
        """Attack 32: the signature is by a user-signing key of before."""
        proof = explain_device(bob_verified(), "PHONE", own=own_identity(ME_RESET))
        missing = ("bob master", "me user_signing", V.MISSING, Reason.MISSING_SIGNATURE)
        assert (proof.verdict, findings(proof)) == (DeviceTrust.CROSS_SIGNED, [missing])

    def test_after_somebody_else_has_reset_ones_own_identity(self) -> None:
        """Attack 32: nobody counts as verified, until one has looked at that."""
        known = judge(answer(ME_RESET), known=known_after(answer()), own=OWN).known
        bob, me = known[BOB.user_id], known[ME.user_id]
        assert device_trust(bob, "PHONE") is DeviceTrust.CROSS_SIGNED
        proof = explain_device(bob, "PHONE", own=OWN)
        outdated = ("bob master", None, V.OUTDATED, Reason.WRONG_STATE)
        assert (proof.verdict, findings(proof)) == (DeviceTrust.CROSS_SIGNED, [outdated])
        of_user = explain_user(bob, own=OWN)
        assert (of_user.verdict, findings(of_user)) == (IdentityState.VERIFICATION_LOST, [outdated])
        proof = explain_device(me, "ONE", own=OWN)
        changed = ("me master", None, V.CHANGED, Reason.IDENTITY_CHANGED)
        assert (proof.verdict, findings(proof)) == (DeviceTrust.OWNER_CHANGED, [changed, changed])

    def test_an_identity_of_ones_own_that_one_has_not_confirmed(self) -> None:
        """Attack 33: the first one that is seen is somebody else's."""
        me = known_after(answer(ME_RESET), None)[ME.user_id]
        assert me.pin.state is IdentityState.PINNED
        proof = explain_device(me, "ONE", own=OWN)
        changed = ("me master", None, V.CHANGED, Reason.IDENTITY_CHANGED)
        assert (proof.verdict, findings(proof)) == (DeviceTrust.CROSS_SIGNED, [changed])
        assert explain_user(me, own=OWN).broken == proof.broken

    def test_an_identity_of_ones_own_that_was_confirmed_and_is_not_any_more(self) -> None:
        me = known_after(answer())[ME.user_id]
        proof = explain_device(me, "ONE", own=own_identity(ME_RESET))
        changed = ("me master", None, V.CHANGED, Reason.IDENTITY_CHANGED)
        assert (proof.verdict, findings(proof)) == (DeviceTrust.CROSS_SIGNED, [changed])
        assert explain_user(me, own=own_identity(ME_RESET)).verdict is IdentityState.VERIFICATION_LOST

    @pytest.mark.parametrize("user_id", [ME.user_id, BOB.user_id])
    def test_what_was_judged_without_ones_own_identity_is_outdated(self, user_id: str) -> None:
        user = known_after(answer(), None)[user_id]
        assert user.pin.state is IdentityState.PINNED
        device_id = "ONE" if user_id == ME.user_id else "PHONE"
        proof = explain_device(user, device_id, own=OWN)
        assert proof.verdict is DeviceTrust.CROSS_SIGNED
        assert [link.verdict for link in proof.broken] == [V.OUTDATED]

    def test_after_the_owner_was_seen_with_another_identity(self) -> None:
        """Attack 33: it was pinned, and now it is another one."""
        before = known_after(answer(verified_by=None))
        bob = judge(answer(bob=BOB_RESET, verified_by=None), known=before, own=OWN).known[BOB.user_id]
        proof = explain_device(bob, "PHONE", own=OWN)
        assert proof.verdict is device_trust(bob, "PHONE") is DeviceTrust.OWNER_CHANGED
        assert findings(proof) == [
            ("bob master", None, V.CHANGED, Reason.IDENTITY_CHANGED),
            ("bob master", "me user_signing", V.MISSING, Reason.MISSING_SIGNATURE),
        ]
        assert "that was pinned" in proof.broken[0].detail
        assert V.PINNED not in [link.verdict for link in proof.links]
        assert explain_user(bob, own=OWN).verdict is IdentityState.PIN_VIOLATION
        assert explain_device(bob, "EVIL", own=OWN).verdict is DeviceTrust.NOT_CROSS_SIGNED

    def test_after_a_verified_owner_was_seen_with_another_identity(self) -> None:
        """Attack 33: it was verified; and that the old one comes back heals nothing."""
        bob = judge(answer(bob=BOB_RESET, verified_by=None), known=known_after(answer()), own=OWN).known
        again = judge(answer(), known=bob, own=OWN).known[BOB.user_id]
        for user, missing in ((bob[BOB.user_id], True), (again, False)):
            proof = explain_device(user, "PHONE", own=OWN)
            assert proof.verdict is device_trust(user, "PHONE") is DeviceTrust.OWNER_CHANGED
            assert findings(proof) == [
                ("bob master", None, V.CHANGED, Reason.IDENTITY_CHANGED),
                *([("bob master", "me user_signing", V.MISSING, Reason.MISSING_SIGNATURE)] if missing else []),
            ]
            assert "that was verified" in proof.broken[0].detail
            assert V.PINNED not in [link.verdict for link in proof.links]
            assert explain_user(user, own=OWN).verdict is IdentityState.VERIFICATION_VIOLATION

    def test_a_signature_that_the_server_leaves_out_later_is_not_lost(self) -> None:
        bob = judge(broken_at(answer(), BOBS_MSK, "dropped"), known=known_after(answer()), own=OWN).known[BOB.user_id]
        assert explain_device(bob, "PHONE", own=OWN).verdict is DeviceTrust.VERIFIED


class TestIdentifiersThatAreKeys:
    def test_a_device_named_like_a_cross_signing_key(self) -> None:
        """Attack 25: the device and the key are two, and one's signature is never taken for that of the other."""
        for usage in ("master", "self_signing"):
            name = BOB.secret(usage).public_key.to_base64()
            body = answer()
            body["device_keys"][BOB.user_id][name] = BOB.device(name, cross_signed=False).to_json()
            # As if nobody had looked: a user with the identity and with this device.
            before = bob_verified()
            device = judge(body).known[BOB.user_id].devices.get(name)
            assert device is None
            device = BOB.device(name, cross_signed=False).verify(identity=before.identity)
            bob = attrs.evolve(before, devices={**before.devices, name: device}, collision=name)
            proof = explain_device(bob, name, own=OWN)
            assert proof.verdict is DeviceTrust.NOT_CROSS_SIGNED
            assert len(proof.broken) == 1
            (broken,) = proof.broken
            assert (broken.key.role, broken.signer and broken.signer.role) == ("device", "self_signing")
            roles = {(link.key.role, link.key.key_id) for link in proof.links}
            assert {("device", f"ed25519:{name}"), (usage, f"ed25519:{name}")} <= roles


class TestWhatTheUserDecided:
    @pytest.mark.parametrize(
        ("decided", "device_id", "verdict", "link", "holds"),
        [
            (LocalTrust.VERIFIED, "PHONE", DeviceTrust.VERIFIED, V.CONFIRMED, True),
            (LocalTrust.VERIFIED, "EVIL", DeviceTrust.VERIFIED, V.CONFIRMED, True),
            (LocalTrust.IGNORED, "PHONE", DeviceTrust.VERIFIED, V.IGNORED, True),
            (LocalTrust.IGNORED, "EVIL", DeviceTrust.NOT_CROSS_SIGNED, V.IGNORED, True),
            (LocalTrust.BLACKLISTED, "PHONE", DeviceTrust.BLACKLISTED, V.DENIED, False),
            (LocalTrust.BLACKLISTED, "EVIL", DeviceTrust.BLACKLISTED, V.DENIED, False),
        ],
    )
    def test_goes_before_signatures(
        self, decided: LocalTrust, device_id: str, verdict: DeviceTrust, link: LinkVerdict, holds: bool
    ) -> None:
        before = bob_verified()
        bob = before.with_trust(before.devices[device_id].ed25519_key, decided)
        proof = explain_device(bob, device_id, own=OWN)
        assert proof.verdict is device_trust(bob, device_id) is verdict
        assert (proof.links[-1].signer, proof.links[-1].verdict, proof.links[-1].holds) == (None, link, holds)
        assert proof.links[-1].key.key_id == f"ed25519:{device_id}"
        assert decided in proof.links[-1].detail
        assert proof.links[:-1] == explain_device(before, device_id, own=OWN).links
        assert (proof.links[-1] in proof.broken) is not holds

    def test_holds_for_a_device_of_somebody_who_changed(self) -> None:
        before = known_after(answer())
        bob = judge(answer(bob=BOB_RESET, verified_by=None), known=before, own=OWN).known[BOB.user_id]
        for decided, verdict in (
            (LocalTrust.VERIFIED, DeviceTrust.VERIFIED),
            (LocalTrust.IGNORED, DeviceTrust.OWNER_CHANGED),
            (LocalTrust.BLACKLISTED, DeviceTrust.BLACKLISTED),
        ):
            decided_bob = bob.with_trust(bob.devices["PHONE"].ed25519_key, decided)
            assert device_trust(decided_bob, "PHONE") is verdict
            assert explain_device(decided_bob, "PHONE", own=OWN).verdict is verdict


class TestAsText:
    def test_a_line_for_each_link(self) -> None:
        bob = bob_verified()
        master, signing = key_name(BOB, "master"), key_name(BOB, "self_signing")
        assert explain_device(bob, "EVIL", own=OWN).to_text(marks=("ok", "!!")).splitlines() == [
            "'EVIL' of '@bob:b.example': not-cross-signed",
            (
                f"  ok master key {key_name(ME, 'master')} of @me:a.example: "
                "it is your own master key, and you have confirmed it"
            ),
            (
                f"  ok user-signing key {key_name(ME, 'user_signing')} of @me:a.example: "
                "it is signed by the master key of '@me:a.example'"
            ),
            f"  ok master key {master} of @bob:b.example: it is signed by the user-signing key of '@me:a.example'",
            f"  ok master key {master} of @bob:b.example: it is the master key that was seen first, or accepted since",
            f"  ok self-signing key {signing} of @bob:b.example: it is signed by the master key of '@bob:b.example'",
            (
                "  !! device key ed25519:EVIL of @bob:b.example: "
                f"there is no signature by '@bob:b.example' under '{signing}' [missing-signature]"
            ),
            "  ok device key ed25519:EVIL of @bob:b.example: it is signed by itself",
        ]

    def test_the_usual_marks(self) -> None:
        text = explain_device(bob_verified(), "EVIL", own=OWN).to_text()
        assert [line[2] for line in text.splitlines()[1:]] == ["✓", "✓", "✓", "✓", "✓", "✗", "✓"]

    def test_about_a_user(self) -> None:
        assert explain_user(bob_verified(), own=OWN).to_text().splitlines()[0] == "'@bob:b.example': verified"

    @pytest.mark.parametrize("name", ["\x1b[2J\u202e\nfoo: verified", "\u2028\r\x9b31m", "\x7f" * 400])
    def test_nothing_from_the_server_reaches_the_terminal_raw(self, name: str) -> None:
        mallory = SampleUser("@" + name[:50].replace(":", ".") + ":a.example")
        body: Any = keys_query_answer([(mallory, [mallory.device(name), mallory.device("X", cross_signed=False)])])
        request = KeysQueryRequest.for_users([mallory.user_id])
        known = check_query(request, KeysQueryResponse.from_json(body), known={}).known[mallory.user_id]
        for proof in (*(explain_device(known, it, own=None) for it in (name, "X")), explain_user(known, own=OWN)):
            lines = proof.to_text().split("\n")
            assert len(lines) == len(proof.links) + 1
            assert all(line.isprintable() for line in lines)
            assert all(link.detail.isprintable() for link in proof.links)

    def test_as_a_graph(self) -> None:
        graph = explain_device(bob_verified(), "EVIL", own=OWN).to_mermaid()
        assert graph.startswith('flowchart LR\n    you(["you"])\n')
        assert '-.->|"missing-signature"| k4' in graph

    def test_not_in_a_repr(self) -> None:
        proof = explain_device(bob_verified(), "PHONE", own=OWN)
        assert "PHONE" in repr(proof)
        assert "links" not in repr(proof)


class TestKeyNames:
    @pytest.mark.parametrize(
        ("role", "title"),
        [
            ("device", "device key"),
            ("master", "master key"),
            ("self_signing", "self-signing key"),
            ("user_signing", "user-signing key"),
        ],
    )
    def test_title(self, role: KeyRole, title: str) -> None:
        assert KeyName(user_id=BOB.user_id, role=role, key_id="").title == title

    def test_which_verdicts_hold(self) -> None:
        key = KeyName(user_id=BOB.user_id, role="master", key_id="")
        holding = {it for it in V if TrustLink(key=key, signer=None, verdict=it, detail="").holds}
        assert holding == {V.GOOD, V.CONFIRMED, V.PINNED, V.IGNORED}


# --------------------------------------------------------------------------------------------------------------
# Properties
# --------------------------------------------------------------------------------------------------------------


def is_signed(obj: Any, entity: str, key_id: str, key: Any) -> bool:
    try:
        verify_json(obj, entity=entity, key_id=key_id, key=key)
    except VerificationError:
        return False
    return True


def naive(user: KnownUser, device_id: str, own: OwnIdentity | None) -> bool:
    """Whether every signature from one's own master key to a device is there, asked one by one."""
    if own is None or user.identity is None:
        return False
    mine, theirs, device = own.identity, user.identity, user.devices[device_id].keys
    if user.user_id == own.user_id:
        vouched = theirs.master_key.key_name == mine.master_key.key_name
    else:
        signing = mine.user_signing_key
        vouched = (
            signing is not None
            and is_signed(signing.to_json(), own.user_id, mine.master_key.key_name, mine.master_key.public_key)
            and is_signed(theirs.master_key.to_json(), own.user_id, signing.key_name, signing.public_key)
        )
    msk, ssk = theirs.master_key, theirs.self_signing_key
    return (
        vouched
        and is_signed(ssk.to_json(), user.user_id, msk.key_name, msk.public_key)
        and is_signed(device.to_json(), user.user_id, ssk.key_name, ssk.public_key)
        and is_signed(device.to_json(), user.user_id, f"ed25519:{device_id}", device.ed25519_key)
    )


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """Answers about oneself and Bob, either with one of two identities, and with signatures missing or wrong."""
    me = draw(st.sampled_from([ME, ME, ME_RESET]))
    bob = draw(st.sampled_from([BOB, BOB, BOB_RESET]))
    body = answer(me, bob, verified_by=draw(st.sampled_from([ME, ME, ME_RESET, None])))
    for place in draw(st.lists(st.sampled_from([*SIGNERS]), max_size=2, unique=True)):
        with_signature = body
        for name in place:
            with_signature = with_signature[name]
        entity, key_id = SIGNERS[place]
        if key_id in with_signature.get("signatures", {}).get(entity, {}):
            body = broken_at(body, place, draw(st.sampled_from(["dropped", "altered", "garbled"])))
    for name in draw(st.lists(st.sampled_from(["master_keys", "self_signing_keys", "user_signing_keys"]), max_size=1)):
        body[name].pop(draw(st.sampled_from([ME.user_id, BOB.user_id])), None)
    return body


owns = st.sampled_from([OWN, OWN, own_identity(with_user_signing_key=False), own_identity(ME_RESET), None])
decisions = st.dictionaries(st.sampled_from(["PHONE", "EVIL"]), st.sampled_from(LocalTrust), max_size=2)


def as_last_seen(own: OwnIdentity | None, result: QueryResult) -> OwnIdentity | None:
    """One's own identity as the answer shows it: with the user-signing key that counts."""
    me = result.known[ME.user_id].identity
    if own is None or me is None or me.master_public_key != own.identity.master_public_key:
        return own
    if me.user_signing_key is None:
        me = me.with_user_signing_key_of(own.identity)
    return me.confirm_as_own(master_key=me.master_public_key)


@given(st.lists(st.tuples(answers(), owns, decisions), min_size=1, max_size=4))
def test_a_proof_says_what_is_known(steps: list[tuple[dict[str, Any], OwnIdentity | None, Any]]) -> None:
    known: Mapping[str, KnownUser] = {}
    for body, own, decided in steps:
        result = judge(body, known=known, own=own)
        own_now = as_last_seen(own, result)
        for user in result.known.values():
            of_user = explain_user(user, own=own_now)
            if of_user.links:
                assert (of_user.verdict is IdentityState.VERIFIED) is (not of_user.broken)
            for device_id in user.devices:
                proof = explain_device(user, device_id, own=own_now)
                if user.user_id in result.identities.accepted:
                    assert proof.verdict is device_trust(user, device_id)
                    assert of_user.verdict is user.pin.state
                if user.trust_of(device_id) in (LocalTrust.UNSET, LocalTrust.IGNORED):
                    is_verified = user.pin.is_verified and naive(user, device_id, own_now)
                    assert (proof.verdict is DeviceTrust.VERIFIED) is is_verified
                    assert is_verified is (not proof.broken)
                    if is_verified:
                        assert device_trust(user, device_id) is DeviceTrust.VERIFIED
                else:
                    assert proof.verdict is device_trust(user, device_id)
        bob = result.known[BOB.user_id]
        for device_id, trust in decided.items():
            if device_id in bob.devices:
                bob = bob.with_trust(bob.devices[device_id].ed25519_key, trust)
        known = {**result.known, BOB.user_id: bob}


class TestWrongTypes:
    @given(json_like_values())
    def test_for_every_argument(self, value: Any) -> None:
        bob = bob_verified()
        calls: list[tuple[str, Any]] = [
            ("/user", lambda: device_trust(value, "PHONE")),
            ("/user", lambda: explain_device(value, "PHONE", own=OWN)),
            ("/user", lambda: explain_user(value, own=OWN)),
            ("/device_id", lambda: device_trust(bob, value)),
            ("/device_id", lambda: explain_device(bob, value, own=OWN)),
            ("/verifier", lambda: explain_device(bob, "PHONE", own=OWN, verifier=value)),
            ("/verifier", lambda: explain_user(bob, own=OWN, verifier=value)),
            ("/verifier", lambda: explain_user(KnownUser(user_id=BOB.user_id), own=OWN, verifier=value)),
            ("/marks", lambda: explain_user(bob, own=OWN).to_text(marks=value)),
        ]
        if value is not None:
            calls += [
                ("/own", lambda: explain_device(bob, "PHONE", own=value)),
                ("/own", lambda: explain_user(bob, own=value)),
            ]
        for path, call in calls:
            with pytest.raises(LocalProtocolError) as caught:
                call()
            unknown = path == "/device_id" and type(value) is str
            assert (caught.value.reason, caught.value.path) == (
                Reason.INVALID_VALUE if unknown else Reason.WRONG_TYPE,
                path,
            )

    @pytest.mark.parametrize("device_id", ["GONE", "", "phone", "\ud800"])
    def test_a_device_that_is_not_known(self, device_id: str) -> None:
        bob = bob_verified()
        for call in (device_trust, lambda user, name: explain_device(user, name, own=OWN)):
            with pytest.raises(LocalProtocolError) as caught:
                call(bob, device_id)
            assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/device_id")
            assert repr(BOB.user_id) in caught.value.detail

    @pytest.mark.parametrize("marks", [("a",), ("a", 5), ["a", "b"], ("a", "b", "c"), "ab", (5, "a")])
    def test_marks(self, marks: Any) -> None:
        with pytest.raises(E2EKeysError):
            explain_user(bob_verified(), own=OWN).to_text(marks=marks)

    def test_an_own_identity_is_one_that_was_confirmed(self) -> None:
        """Attack 32: an identity that nobody has confirmed vouches for nobody."""
        bob = bob_verified()
        for call in (explain_user, lambda user, own: explain_device(user, "PHONE", own=own)):
            with pytest.raises(LocalProtocolError):
                call(bob, own=OWN.identity)
