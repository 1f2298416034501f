"""Conformance: identities, and the signatures on them.

Not played: users who have no password and confirm a reset on a web page, and the time in which one may replace keys
after that; application services. Both only decide whether :attr:`Requester.has_authenticated` is set.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from homeserver.directory.servers import PASSWORD, Answer, Json, LocalClient, LocalWorld, answer_of, http
from matrix_e2e_keys import MatrixError
from matrix_e2e_keys.homeserver.directory.values import Exchange
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.signers import Signer, add_signature
from matrix_e2e_keys.testing.samples import SampleUser

ROLES = ("master", "self_signing", "user_signing")


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def bob(world: LocalWorld, server: int) -> LocalClient:
    return world.new_client("bob", server=server)


@pytest.fixture
def carol(world: LocalWorld) -> LocalClient:
    return world.new_client("carol")


def signed(tree: Json, user_id: str, signer: Signer) -> Json:
    """Return an object with one more signature."""
    return add_signature(SignedJson.from_json(tree), entity=user_id, signer=signer).to_json()


def only_signature(tree: Json, user_id: str) -> Json:
    """Return an object with the signatures of one user."""
    return {**tree, "signatures": {user_id: tree["signatures"][user_id]}}


def by_device(client: LocalClient) -> Json:
    """Return the master key of a user, signed by one of the user's devices."""
    sample = client.user.sample
    return signed(sample.master_key.to_json(), sample.user_id, sample.device_signer(client.device_id))


def is_question(answer: Answer) -> bool:
    """Tell whether an answer asks who one is."""
    is_asking = answer.status == 401
    if is_asking:
        assert [flow["stages"] for flow in answer.body["flows"]] == [["m.login.password"]]
        assert "params" in answer.body
    return is_asking


def keys_of(answer: Json, user_id: str) -> Json:
    """Return the identity of a user as it was served, without members for what is not there."""
    return {role: answer[f"{role}_keys"][user_id] for role in ROLES if user_id in answer.get(f"{role}_keys", {})}


class TestUploading:
    def test_the_first_identity_takes_no_password(self, alice: LocalClient) -> None:
        """Conformance: keys that are uploaded for the first time are taken at once, and are served exactly so."""
        identity = alice.user.identity()
        assert alice.device_signing(identity) == (200, {})
        served = keys_of(alice.query_of(alice.user), alice.user.user_id)
        assert {f"{role}_key": key for role, key in served.items()} == identity

    def test_the_same_identity_again_takes_no_password(self, alice: LocalClient) -> None:
        """Conformance: the same keys again change nothing, with a password and without."""
        alice.set_up_identity()
        since = alice.token
        for body in (alice.user.identity(), {**alice.user.identity(), "auth": PASSWORD}, alice.user.identity("master")):
            assert alice.device_signing(body) == (200, {})
        assert alice.changed_since(since) == []

    def test_another_identity_takes_the_password(self, alice: LocalClient) -> None:
        """Conformance: whoever replaces the master key must say who he is; the old key is not served any more."""
        alice.set_up_identity()
        another = alice.user.identity(generation=1)
        assert is_question(alice.device_signing(another))
        wrong = alice.device_signing({**another, "auth": {**PASSWORD, "password": "wrong"}})
        assert is_question(wrong)
        assert wrong.error == (401, "M_FORBIDDEN")
        assert alice.device_signing({**another, "auth": {"session": "x"}}).error == (401, None)
        assert keys_of(alice.query_of(alice.user), alice.user.user_id)["master"] == alice.user.identity()["master_key"]
        assert alice.device_signing({**another, "auth": PASSWORD}) == (200, {})
        served = keys_of(alice.query_of(alice.user), alice.user.user_id)
        assert {f"{role}_key": key for role, key in served.items()} == another

    def test_one_more_key_takes_the_password(self, alice: LocalClient) -> None:
        """Conformance: once there is a master key, another self-signing key takes the password, the first one too."""
        assert alice.device_signing(alice.user.identity("master")) == (200, {})
        for body in (alice.user.identity("self_signing"), alice.user.identity("master", "self_signing")):
            assert is_question(alice.device_signing(body))
        assert "self_signing" not in keys_of(alice.query_of(alice.user), alice.user.user_id)
        body = alice.user.identity("master", "self_signing")
        assert alice.device_signing({**body, "auth": PASSWORD}) == (200, {})
        assert alice.device_signing({**body, "auth": PASSWORD}) == (200, {})
        assert alice.device_signing(body) == (200, {})
        assert sorted(keys_of(alice.query_of(alice.user), alice.user.user_id)) == ["master", "self_signing"]

    def test_whoever_has_authenticated_otherwise_is_not_asked(self, alice: LocalClient) -> None:
        alice.set_up_identity()
        request = http("POST", "/_matrix/client/v3/keys/device_signing/upload", alice.user.identity(generation=1))
        for requester in (
            evolve(alice.requester, has_authenticated=True),
            evolve(alice.requester, is_application_service=True),
        ):
            assert alice.ask_as(requester, request) == (200, {})

    def test_a_self_signing_key_needs_a_master_key(self, alice: LocalClient) -> None:
        """Conformance: without a master key, no other key is taken."""
        for role in ROLES[1:]:
            assert alice.device_signing(alice.user.identity(role)).error == (400, "M_MISSING_PARAM")
        assert keys_of(alice.query_of(alice.user), alice.user.user_id) == {}

    def test_a_self_signing_key_must_be_signed(self, alice: LocalClient) -> None:
        """Conformance: a key that the master key has not signed is refused."""
        body = alice.user.identity()
        unsigned = {**body["self_signing_key"], "signatures": {}}
        for key in (unsigned, SampleUser(alice.user.user_id, 1).self_signing_key.to_json()):
            answer = alice.device_signing({**body, "self_signing_key": key})
            assert answer.error == (400, "M_INVALID_SIGNATURE")
        assert keys_of(alice.query_of(alice.user), alice.user.user_id) == {}

    def test_keys_of_somebody_else_are_refused(self, alice: LocalClient, carol: LocalClient) -> None:
        assert alice.device_signing(carol.user.identity()).error == (400, "M_INVALID_PARAM")
        assert keys_of(alice.query_of(alice.user, carol.user), carol.user.user_id) == {}

    @pytest.mark.parametrize("key", ["text", [], 7, {}, {"user_id": "@alice:one.example"}])
    def test_what_is_no_key_is_refused(self, alice: LocalClient, key: object) -> None:
        """Conformance: a master key that is none is refused, whatever it is."""
        assert alice.device_signing({"master_key": key}).error == (400, "M_INVALID_PARAM")

    def test_an_identity_does_not_appear_as_a_device(self, world: LocalWorld, alice: LocalClient) -> None:
        """Conformance: cross-signing keys are not devices, and no device can be called like one."""
        alice.set_up_identity()
        assert list(alice.query_of(alice.user)["device_keys"][alice.user.user_id]) == ["PHONE"]
        names = [CrossSigningKey.from_json(key).key_id.name for key in alice.user.identity().values()]
        for name in names:
            with pytest.raises(MatrixError) as caught:
                alice.user.log_in(name)
            assert (caught.value.status, caught.value.errcode) == (400, "M_FORBIDDEN")
            assert caught.value.error == "The device ID is in use"

    def test_a_new_identity_goes_without_what_the_old_one_signed(self, alice: LocalClient, bob: LocalClient) -> None:
        for client in (alice, bob):
            client.set_up_identity()
        sample = alice.user.sample
        alice.upload_signatures(alice.user, {"PHONE": sample.device("PHONE").to_json()})
        verified = sample.verified(bob.user.sample.master_key).to_json()
        assert alice.upload_signatures(bob.user, {bob.user.master_name: verified}) == {}
        assert alice.device_signing({**alice.user.identity(generation=1), "auth": PASSWORD}).good == {}
        answer = alice.query_of(alice.user, bob.user)
        assert answer["device_keys"][alice.user.user_id]["PHONE"]["signatures"] == alice.device_keys()["signatures"]
        assert answer["master_keys"][bob.user.user_id] == bob.user.identity()["master_key"]


class TestWhoSeesAnIdentity:
    def test_everybody_but_for_the_user_signing_key(self, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: others see the master key and the self-signing key, on this server and on others."""
        bob.set_up_identity()
        served = keys_of(alice.query_of(bob.user), bob.user.user_id)
        assert served == {role: bob.user.identity()[f"{role}_key"] for role in ROLES[:2]}
        assert sorted(keys_of(bob.query_of(bob.user), bob.user.user_id)) == sorted(ROLES)
        assert "user_signing" not in keys_of(bob.query_of(alice.user), bob.user.user_id)

    def test_they_are_told_of_it(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: a new identity is told to oneself and to those who share a room, over federation too."""
        world.share_room(alice.user, bob.user)
        world.settle()
        tokens = {client: client.token for client in (alice, bob)}
        bob.set_up_identity()
        world.settle()
        for client, since in tokens.items():
            assert client.changed_since(since) == [bob.user.user_id]
        served = keys_of(alice.query_of(bob.user), bob.user.user_id)
        assert served == {role: bob.user.identity()[f"{role}_key"] for role in ROLES[:2]}

    def test_they_are_not_told_of_a_user_signing_key(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient
    ) -> None:
        """Conformance: a user-signing key is told to its owner and to nobody else."""
        bob.device_signing(bob.user.identity("master"))
        world.share_room(alice.user, bob.user)
        world.settle()
        tokens = {client: client.token for client in (alice, bob)}
        assert bob.device_signing({**bob.user.identity("user_signing"), "auth": PASSWORD}).good == {}
        world.settle()
        assert alice.changed_since(tokens[alice]) == []
        assert bob.changed_since(tokens[bob]) == [bob.user.user_id]


class TestSigningOnesOwn:
    def test_a_signed_device(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: the signature of the self-signing key on a device is served to all, beside that of the device,
        and is told to all who share a room.
        """
        bob.set_up_identity()
        world.share_room(alice.user, bob.user)
        world.settle()
        tokens = {client: client.token for client in (alice, bob)}
        device: Json = bob.user.sample.device("PHONE").to_json()
        assert bob.upload_signatures(bob.user, {"PHONE": device}) == {}
        world.settle()
        for client, since in tokens.items():
            assert client.changed_since(since) == [bob.user.user_id]
            assert client.devices_of(bob.user) == {"PHONE": device}
        assert len(device["signatures"][bob.user.user_id]) == 2

    def test_only_what_is_new_need_be_uploaded(self, alice: LocalClient) -> None:
        alice.set_up_identity()
        whole: Json = alice.user.sample.device("PHONE").to_json()
        key_id = str(alice.user.sample.self_signing_key.key_id)
        part = {**whole, "signatures": {alice.user.user_id: {key_id: whole["signatures"][alice.user.user_id][key_id]}}}
        assert alice.upload_signatures(alice.user, {"PHONE": part}) == {}
        assert alice.devices_of(alice.user) == {"PHONE": whole}

    def test_again(self, alice: LocalClient) -> None:
        """Conformance: the same signature can be uploaded again, and nobody is told."""
        alice.set_up_identity()
        device: Json = alice.user.sample.device("PHONE").to_json()
        assert alice.upload_signatures(alice.user, {"PHONE": device}) == {}
        since = alice.token
        assert alice.upload_signatures(alice.user, {"PHONE": device}) == {}
        assert alice.changed_since(since) == []

    def test_a_device_that_uploads_its_keys_again_stays_signed(self, alice: LocalClient) -> None:
        """Conformance: device keys that are uploaded again without the signature of the user keep it."""
        alice.set_up_identity()
        device: Json = alice.user.sample.device("PHONE").to_json()
        alice.upload_signatures(alice.user, {"PHONE": device})
        alice.publish()
        assert alice.devices_of(alice.user) == {"PHONE": device}

    def test_a_signed_device_reaches_servers_that_come_later(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient
    ) -> None:
        """Conformance: who asks later gets the signatures too."""
        bob.set_up_identity()
        device: Json = bob.user.sample.device("PHONE").to_json()
        bob.upload_signatures(bob.user, {"PHONE": device})
        assert alice.devices_of(bob.user) == {"PHONE": device}
        world.share_room(alice.user, bob.user)
        world.settle()
        assert alice.devices_of(bob.user) == {"PHONE": device}

    def test_a_device_signs_the_master_key(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        bob.set_up_identity()
        world.share_room(alice.user, bob.user)
        world.settle()
        since = alice.token
        assert bob.upload_signatures(bob.user, {bob.user.master_name: by_device(bob)}) == {}
        world.settle()
        assert alice.changed_since(since) == [bob.user.user_id]
        for client in (alice, bob):
            assert client.query_of(bob.user)["master_keys"] == {bob.user.user_id: by_device(bob)}


class TestSigningOthers:
    def test_only_who_signed_sees_it(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient, carol: LocalClient
    ) -> None:
        """Conformance: a signature on somebody else's master key is seen by who made it, and by nobody else: not by
        strangers, and not by whom it is about. Only who made it is told.
        """
        for client in (alice, bob, carol):
            client.set_up_identity()
        world.share_room(alice.user, bob.user, carol.user)
        world.settle()
        tokens = {client: client.token for client in (alice, bob, carol)}
        key = alice.user.sample.verified(bob.user.sample.master_key).to_json()
        assert alice.upload_signatures(bob.user, {bob.user.master_name: key}) == {}
        world.settle()
        assert alice.changed_since(tokens[alice]) == [bob.user.user_id]
        assert alice.query_of(bob.user)["master_keys"] == {bob.user.user_id: key}
        for client in (bob, carol):
            assert client.changed_since(tokens[client]) == []
            answer = client.query_of(alice.user, bob.user)
            assert answer["master_keys"][bob.user.user_id] == bob.user.identity()["master_key"]

    def test_somebody_whom_one_shares_no_room_with(self, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: the master key of a stranger is fetched from the stranger's server, and can be signed."""
        for client in (alice, bob):
            client.set_up_identity()
        key = alice.user.sample.verified(bob.user.sample.master_key).to_json()
        assert alice.upload_signatures(bob.user, {bob.user.master_name: key}) == {}
        assert alice.query_of(bob.user)["master_keys"] == {bob.user.user_id: key}

    def test_both_sign_each_other(self, alice: LocalClient, bob: LocalClient) -> None:
        for client in (alice, bob):
            client.set_up_identity()
        for one, other in ((alice, bob), (bob, alice)):
            key = one.user.sample.verified(other.user.sample.master_key).to_json()
            assert one.upload_signatures(other.user, {other.user.master_name: key}) == {}
        for one, other in ((alice, bob), (bob, alice)):
            answer = one.query_of(one.user, other.user)
            own = answer["master_keys"][one.user.user_id]
            assert own == one.user.identity()["master_key"]
            assert one.user.user_id in answer["master_keys"][other.user.user_id]["signatures"]

    def test_signing_anew_leaves_no_history(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: however often keys are replaced, one signature on each user is kept, the latest."""
        for client in (alice, bob):
            client.set_up_identity()
        for generation in range(1, 4):
            sample = SampleUser(alice.user.user_id, generation)
            assert alice.device_signing({**alice.user.identity(generation=generation), "auth": PASSWORD}).good == {}
            verified = sample.verified(bob.user.sample.master_key).to_json()
            assert alice.upload_signatures(bob.user, {bob.user.master_name: verified}) == {}
            stored = world.directory(0).user(alice.user.user_id)
            assert stored is not None
            assert len(stored.signatures) == 1
            assert alice.query_of(bob.user)["master_keys"] == {bob.user.user_id: verified}


class TestSignaturesThatAreRefused:
    """Conformance: each target of an upload of signatures is judged for itself."""

    def refusals(self, answer: Answer) -> dict[tuple[str, str], str]:
        return {
            (user, target): error["errcode"]
            for user, targets in answer.good.get("failures", {}).items()
            for target, error in targets.items()
        }

    def test_nothing(self, alice: LocalClient) -> None:
        assert self.refusals(alice.signatures({})) == {}

    def test_the_whole_table(self, world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: a bad signature, an unknown device, an unknown user and another content are refused; what is
        good beside them is taken.
        """
        for client in (alice, bob):
            client.set_up_identity()
        me, him = alice.user.user_id, bob.user.user_id
        sample = alice.user.sample
        for name in ("LAPTOP", "TABLET", "WATCH", "TV"):
            alice.user.log_in(name).publish()
        good: dict[str, Json] = {
            name: sample.device(name).to_json() for name in ("PHONE", "LAPTOP", "TABLET", "WATCH", "TV", "GONE")
        }
        key_id = str(sample.self_signing_key.key_id)
        unsigned = sample.device("LAPTOP", cross_signed=False).to_json()
        bad = {**good["TABLET"], "signatures": {me: {key_id: good["PHONE"]["signatures"][me][key_id]}}}
        other = signed(
            sample.device("WATCH", cross_signed=False, extra={"more": 1}).to_json(),
            me,
            sample.secret("self_signing").cross_signer(),
        )
        nobody = {**good["TV"], "signatures": {}}
        verified = sample.verified(bob.user.sample.master_key).to_json()
        answer = alice.signatures(
            {
                me: {
                    "PHONE": good["PHONE"],
                    "LAPTOP": unsigned,
                    "TABLET": bad,
                    "WATCH": other,
                    "TV": nobody,
                    "GONE": good["GONE"],
                },
                him: {bob.user.master_name: verified, "unknown": verified, "PHONE": bob.device_keys()},
                f"@nobody:{'one' if not bob.user.server else 'two'}.example": {"key": verified},
            }
        )
        found = self.refusals(answer)
        stranger = next(user for user, _ in found if user not in (me, him))
        assert found.pop((stranger, "key")) == "M_NOT_FOUND"
        assert found == {
            (him, "PHONE"): "M_NOT_FOUND",
            (me, "LAPTOP"): "M_INVALID_SIGNATURE",
            (me, "TABLET"): "M_INVALID_SIGNATURE",
            (me, "WATCH"): "M_UNKNOWN",
            (me, "TV"): "M_INVALID_SIGNATURE",
            (me, "GONE"): "M_NOT_FOUND",
            (him, "unknown"): "M_NOT_FOUND",
        }
        devices = alice.devices_of(alice.user)
        assert devices["PHONE"] == good["PHONE"]
        assert all(key_id not in devices[name]["signatures"][me] for name in devices if name != "PHONE")
        assert alice.query_of(bob.user)["master_keys"] == {him: verified}

    def test_without_an_identity(self, alice: LocalClient, bob: LocalClient) -> None:
        """Conformance: whoever has no self-signing key signs no device, and without a user-signing key nobody."""
        bob.set_up_identity()
        device: Json = alice.user.sample.device("PHONE").to_json()
        verified = alice.user.sample.verified(bob.user.sample.master_key).to_json()
        answer = alice.signatures(
            {alice.user.user_id: {"PHONE": device}, bob.user.user_id: {bob.user.master_name: verified}}
        )
        assert set(self.refusals(answer).values()) == {"M_NOT_FOUND"}
        assert len(self.refusals(answer)) == 2

    def test_a_device_of_somebody_else(self, alice: LocalClient, bob: LocalClient) -> None:
        for client in (alice, bob):
            client.set_up_identity()
        theirs = bob.user.sample.device("PHONE").to_json()
        for signer in ("self_signing", "user_signing", "master"):
            key = signed(theirs, alice.user.user_id, alice.user.sample.secret(signer).cross_signer())
            answer = alice.signatures({bob.user.user_id: {"PHONE": key}})
            assert list(self.refusals(answer)) == [(bob.user.user_id, "PHONE")]
        assert bob.devices_of(bob.user) == {"PHONE": bob.device_keys()}

    def test_reading_is_not_fooled_by_the_object(self, alice: LocalClient, carol: LocalClient) -> None:
        """What is signed is what is stored, whatever stands in the request."""
        for client in (alice, carol):
            client.set_up_identity()
        theirs = carol.user.sample.device("PHONE").to_json()
        answer = alice.signatures({alice.user.user_id: {"PHONE": theirs}})
        assert list(self.refusals(answer)) == [(alice.user.user_id, "PHONE")]
        assert DeviceKeys.from_json(alice.devices_of(alice.user)["PHONE"]).user_id == alice.user.user_id


class TestWhileAnotherServerIsAsked:
    """Signatures on the keys of users of other servers take a question to those servers. Meanwhile time goes on."""

    def begun(self, world: LocalWorld, alice: LocalClient, *others: LocalClient) -> Exchange:
        body = {
            client.user.user_id: {
                client.user.master_name: alice.user.sample.verified(client.user.sample.master_key).to_json()
            }
            for client in others
        }
        request = http("POST", "/_matrix/client/v3/keys/signatures/upload", body)
        exchange = world.directory(0).receive_client_request(request, requester=alice.requester, now=world.now)
        assert [asked.server_name for asked in exchange.requests] == ["two.example"]
        return exchange

    def test_a_user_of_this_server_has_another_identity(
        self, world: LocalWorld, alice: LocalClient, carol: LocalClient
    ) -> None:
        there = world.new_client("dave", server=1)
        for client in (alice, carol, there):
            client.set_up_identity()
        exchange = self.begun(world, alice, carol, there)
        assert carol.device_signing({**carol.user.identity(generation=1), "auth": PASSWORD}).good == {}
        answer = answer_of(world.finished(exchange)).good
        assert list(answer["failures"]) == [carol.user.user_id]

    def test_the_signer_has_another_identity(self, world: LocalWorld, alice: LocalClient) -> None:
        there = world.new_client("dave", server=1)
        for client in (alice, there):
            client.set_up_identity()
        exchange = self.begun(world, alice, there)
        assert alice.device_signing({**alice.user.identity(generation=1), "auth": PASSWORD}).good == {}
        answer = answer_of(world.finished(exchange)).good
        assert answer["failures"][there.user.user_id][there.user.master_name]["errcode"] == "M_INVALID_SIGNATURE"
        assert alice.query_of(there.user)["master_keys"][there.user.user_id] == there.user.identity()["master_key"]

    def test_the_other_server_does_not_answer(self, world: LocalWorld, alice: LocalClient) -> None:
        there = world.new_client("dave", server=1)
        for client in (alice, there):
            client.set_up_identity()
        world.down(1)
        answer = answer_of(world.finished(self.begun(world, alice, there))).good
        assert answer["failures"][there.user.user_id][there.user.master_name]["errcode"] == "M_NOT_FOUND"

    def test_several_users_of_one_server(self, world: LocalWorld, alice: LocalClient) -> None:
        others = [world.new_client(name, server=1) for name in ("dave", "erin", "frank")]
        for client in (alice, *others):
            client.set_up_identity()
        assert answer_of(world.finished(self.begun(world, alice, *others))).good == {"failures": {}}
        served = alice.query_of(*(client.user for client in others))["master_keys"]
        assert all(alice.user.user_id in key["signatures"] for key in served.values())
