"""Faults that homeservers have had, and what happens here instead.

Each is named after its number in the project's list of faults to avoid.
"""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.directory.servers import (
    PASSWORD,
    Json,
    LocalClient,
    LocalUser,
    LocalWorld,
    Peer,
    device_edu,
    http,
    without,
)
from matrix_e2e_keys import MatrixError
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Policy
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.signers import Signer, add_signature
from matrix_e2e_keys.testing.message_strategies import json_values
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

SIGNED = "signed_curve25519"


@pytest.fixture
def alice(world: LocalWorld) -> LocalClient:
    return world.new_client("alice")


@pytest.fixture
def bob(world: LocalWorld) -> LocalClient:
    return world.new_client("bob", server=1)


@pytest.fixture
def peer(world: LocalWorld) -> Peer:
    return Peer(world)


@pytest.fixture
def eve(peer: Peer) -> SampleUser:
    """A user of the peer."""
    return peer.user("eve")


def device(user: SampleUser, name: str = "ONE", **extra: object) -> Json:
    return user.device(name, cross_signed=False, extra=extra or None).to_json()


def signed(tree: Json, user_id: str, signer: Signer) -> Json:
    """Return an object with one more signature."""
    return add_signature(SignedJson.from_json(tree), entity=user_id, signer=signer).to_json()


def by_device(client: LocalClient) -> Json:
    sample = client.user.sample
    return signed(sample.master_key.to_json(), sample.user_id, sample.device_signer(client.device_id))


def ask_for(client: LocalClient, *users: SampleUser) -> Json:
    return client.query({"device_keys": {user.user_id: [] for user in users}}).good


def let_in(world: LocalWorld, client: LocalClient, user: SampleUser) -> None:
    """Let a user of a peer share a room with one of this world."""
    stranger = LocalUser(world, user.user_id, -1)
    world.share_room(client.user, stranger)
    world.settle()


def test_b1_a_cached_user_is_asked_for_a_device_that_is_not_there(
    world: LocalWorld, alice: LocalClient, bob: LocalClient
) -> None:
    """Fault B1: a device that a known user does not have is left out, and everything else is answered."""
    world.share_room(alice.user, bob.user)
    world.settle()
    alice.devices_of(bob.user)
    body = {"device_keys": {bob.user.user_id: ["GONE", "PHONE"], alice.user.user_id: []}}
    answer = alice.query(body).good
    assert {user: list(found) for user, found in answer["device_keys"].items()} == {
        bob.user.user_id: ["PHONE"],
        alice.user.user_id: ["PHONE"],
    }


def test_b2_looking_changes_nothing(world: LocalWorld, alice: LocalClient) -> None:
    """Fault B2: what one user may see is not shown to others because he has looked; and the keys stay what they are,
    so that uploading them again takes no password.
    """
    laptop = alice.user.log_in("LAPTOP")
    laptop.publish()
    bob, carol = world.new_client("bob"), world.new_client("carol")
    for client in (alice, bob, carol):
        client.set_up_identity()
    alice.upload_signatures(alice.user, {alice.user.master_name: by_device(laptop)})
    verified = bob.user.sample.verified(alice.user.sample.master_key).to_json()
    bob.upload_signatures(alice.user, {alice.user.master_name: verified})
    seen_by = {client: client.query_of(alice.user)["master_keys"] for client in (carol, bob, alice)}
    for client in (alice, bob, carol, bob, alice):
        assert client.query_of(alice.user)["master_keys"] == seen_by[client]
    assert bob.user.user_id not in seen_by[carol][alice.user.user_id]["signatures"]
    assert alice.device_signing(alice.user.identity()) == (200, {})


def test_b3_a_device_that_is_made_again_starts_clean(alice: LocalClient) -> None:
    """Fault B3: the signature on a device goes with the device, and a later one of the same name can be signed."""
    alice.set_up_identity()
    key_id = str(alice.user.sample.self_signing_key.key_id)
    alice.upload_signatures(alice.user, {"PHONE": alice.user.sample.device("PHONE").to_json()})
    alice.upload_signatures(alice.user, {alice.user.master_name: by_device(alice)})
    alice.log_out()
    laptop = alice.user.log_in("LAPTOP")
    master = laptop.query_of(alice.user)["master_keys"][alice.user.user_id]
    assert "ed25519:PHONE" not in master.get("signatures", {}).get(alice.user.user_id, {})
    again = alice.user.log_in("PHONE")
    again.upload({"device_keys": again.device_keys(version=2)})
    assert key_id not in again.devices_of(alice.user)["PHONE"]["signatures"][alice.user.user_id]
    new = alice.user.sample.device("PHONE", extra={"version": 2}).to_json()
    assert again.upload_signatures(alice.user, {"PHONE": new}) == {}
    assert again.devices_of(alice.user)["PHONE"] == new


def test_b4_a_bad_signature_is_refused_though_there_is_a_good_one(alice: LocalClient) -> None:
    """Fault B4: a signature that is not good is never taken for done; the good one stays."""
    alice.set_up_identity()
    good: Json = alice.user.sample.device("PHONE").to_json()
    assert alice.upload_signatures(alice.user, {"PHONE": good}) == {}
    key_id = str(alice.user.sample.self_signing_key.key_id)
    own = good["signatures"][alice.user.user_id]
    bad = {**good, "signatures": {alice.user.user_id: {key_id: own["ed25519:PHONE"]}}}
    failures = alice.upload_signatures(alice.user, {"PHONE": bad})
    assert failures[alice.user.user_id]["PHONE"]["errcode"] == "M_INVALID_SIGNATURE"
    assert alice.devices_of(alice.user)["PHONE"] == good


def test_b5_a_used_fallback_key_stays_used_however_it_is_written(alice: LocalClient) -> None:
    """Fault B5: the order of members in a body says nothing."""
    key_id, key = alice.one_time_key("f", fallback=True)
    for members in (sorted(key), sorted(key, reverse=True), sorted(key)):
        body = {"fallback_keys": {key_id: {name: key[name] for name in members}}}
        assert alice.upload(body).status == 200
        assert alice.claim_of(alice) == {key_id: key}
        assert alice.sync()["device_unused_fallback_key_types"] == []


def test_b6_the_same_fallback_key_under_another_id_is_the_same_key(lax_world: LocalWorld) -> None:
    """Fault B6: a key that was used is not unused because it has another name. Neither the name nor the use changes."""
    client = lax_world.new_client("alice")
    key_id, key = client.one_time_key("f", fallback=True)
    client.upload({"fallback_keys": {key_id: key}})
    assert client.claim_of(client) == {key_id: key}
    assert client.upload({"fallback_keys": {f"{SIGNED}:g": key}}).status == 200
    assert client.sync()["device_unused_fallback_key_types"] == []
    assert client.claim_of(client) == {key_id: key}


def test_b7_a_new_self_signing_key_beside_the_same_master_key(alice: LocalClient) -> None:
    """Fault B7: whoever has the master key replaces the other keys, whether or not he sends it along."""
    alice.set_up_identity()
    sample = alice.user.sample
    for number, body in enumerate(({"master_key": alice.user.identity()["master_key"]}, {})):
        new = CrossSigningKey.build(
            user_id=sample.user_id,
            usage="self_signing",
            public_key=sample_secret_key(f"new {number}").public_key,
            signer=sample.secret("master").cross_signer(),
        ).to_json()
        assert alice.device_signing({**body, "self_signing_key": new, "auth": PASSWORD}) == (200, {})
        answer = alice.query_of(alice.user)
        assert answer["self_signing_keys"] == {sample.user_id: new}
        assert answer["master_keys"] == {sample.user_id: sample.master_key.to_json()}


@pytest.mark.parametrize("role", ["master", "self_signing", "user_signing"])
def test_b8_a_key_called_like_a_device(alice: LocalClient, role: str) -> None:
    """Fault B8: a cross-signing key whose name a device has is refused, and nothing of the upload is stored."""
    name = getattr(alice.user.sample, f"{role}_key").key_id.name
    alice.user.log_in(name)
    answer = alice.device_signing(alice.user.identity())
    assert answer == (403, {"errcode": "M_FORBIDDEN", "error": "Key ID in use"})
    served = alice.query_of(alice.user)
    assert [served.get(f"{kind}_keys") for kind in ("master", "self_signing", "user_signing")] == [{}, {}, {}]


def test_b8_a_device_called_like_an_earlier_key(alice: LocalClient) -> None:
    """Fault B8: the names of earlier keys stay taken."""
    alice.set_up_identity()
    assert alice.device_signing({**alice.user.identity(generation=1), "auth": PASSWORD}).status == 200
    with pytest.raises(MatrixError) as caught:
        alice.user.log_in(alice.user.master_name)
    assert (caught.value.status, caught.value.error) == (400, "The device ID is in use")


def test_b8_one_key_in_two_roles(alice: LocalClient) -> None:
    """Fault B8: two roles with one key are refused before anything is stored."""
    sample = alice.user.sample
    twin = CrossSigningKey.build(
        user_id=sample.user_id,
        usage="self_signing",
        public_key=sample.master_public_key,
        signer=sample.secret("master").cross_signer(),
    )
    answer = alice.device_signing({**alice.user.identity("master"), "self_signing_key": twin.to_json()})
    assert answer.error == (400, "M_INVALID_PARAM")
    assert alice.query_of(alice.user)["master_keys"] == {}


@pytest.mark.parametrize("nonsense", [None, True, 7, "text", [], ["text"], {}, {"a": None}, {"@x:one.example": 7}])
@pytest.mark.parametrize("path", ["upload", "query", "claim", "device_signing/upload", "signatures/upload"])
def test_b9_nonsense_is_answered(alice: LocalClient, path: str, nonsense: object) -> None:
    """Fault B9: whatever is sent, it is the sender's fault, or no fault at all."""
    members = ("device_keys", "one_time_keys", "fallback_keys", "master_key", "self_signing_key", "@x:one.example")
    own = alice.user.user_id
    bodies = [nonsense, *({member: nonsense} for member in (*members, own))]
    bodies += [{own: {"PHONE": nonsense}}, {"device_keys": {own: nonsense}}, {"one_time_keys": {own: nonsense}}]
    for body in bodies:
        answer = alice.post(path, body)
        assert answer.status in (200, 400), (path, body, answer)
        assert (answer.status == 200) is ("errcode" not in answer.body)


@pytest.mark.parametrize("key_id", ["nocolon", "", ":", "ed25519:", ":PHONE", "ed25519:a:b", "ed25519:\0"])
def test_b9_signatures_under_odd_names(alice: LocalClient, key_id: str) -> None:
    """Fault B9: a signature under a name that is none fails, and nothing else does."""
    alice.set_up_identity()
    master = {**alice.user.identity()["master_key"], "signatures": {alice.user.user_id: {key_id: "x"}}}
    good: Json = alice.user.sample.device("PHONE").to_json()
    failures = alice.upload_signatures(alice.user, {alice.user.master_name: master, "PHONE": good})
    assert {user: list(targets) for user, targets in failures.items()} == {alice.user.user_id: [alice.user.master_name]}
    assert alice.devices_of(alice.user)["PHONE"] == good


def places(tree: object, *at: str | int) -> list[tuple[str | int, ...]]:
    """Return the ways to all values in a tree, but for the whole."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found: list[tuple[str | int, ...]] = [at] if at else []
    for name, value in inner:
        found += places(value, *at, name)
    return found


def put(tree: Any, at: tuple[str | int, ...], value: object) -> Any:
    """Return a tree with another value at a place."""
    changed = copy.deepcopy(tree)
    place = changed
    for name in at[:-1]:
        place = place[name]
    place[at[-1]] = value
    return changed


@given(policy=st.sampled_from([COMPAT, SPEC, STRICT]), data=st.data())
def test_b9_what_is_accepted_can_be_served(policy: Policy, data: st.DataObject) -> None:
    """Fault B9, attacks 50, 52 and 54: whatever is wrong at whatever place of an upload, it is answered, and does not
    stand in the way of anything that comes after it: not here, not at other servers, not after a restart.
    """
    world = LocalWorld(policy=policy)
    alice, bob = world.new_client("alice"), world.new_client("bob", server=1)
    world.share_room(alice.user, bob.user)
    fallback_id, fallback_key = alice.one_time_key("f", fallback=True)
    sample = alice.user.sample
    for path, body in (
        ("device_signing/upload", {**alice.user.identity(), "master_key": by_device(alice)}),
        (
            "upload",
            {
                "device_keys": sample.device("PHONE", extra={"version": 1}).to_json(),
                "one_time_keys": {**alice.one_time_keys("1"), "other:1": "text"},
                "fallback_keys": {fallback_id: fallback_key},
            },
        ),
        (
            "signatures/upload",
            {
                sample.user_id: {"PHONE": sample.device("PHONE").to_json(), alice.user.master_name: by_device(alice)},
                bob.user.user_id: {bob.user.master_name: sample.verified(bob.user.sample.master_key).to_json()},
            },
        ),
    ):
        at = data.draw(st.sampled_from(places(body)))
        answer = alice.post(path, put(body, at, data.draw(json_values())))
        assert answer.status in (200, 400, 401, 403, 413), answer
    world.settle()
    world.restart(0)
    world.restart(1)
    for client in (alice, bob):
        found = client.query_of(alice.user)
        devices = list(found["device_keys"][alice.user.user_id])
        # What is no DeviceKeys is stored by the lax policy, and dropped by whoever gets it from another server.
        assert devices == ["PHONE"] or (policy is COMPAT and client is bob and devices == [])
        assert found["failures"] == {}
        for algorithm in (SIGNED, "other"):
            assert client.claim({"one_time_keys": {alice.user.user_id: {"PHONE": algorithm}}}).status == 200
        client.sync("s0")
    world.later(3_600_000)
    world.settle()
    assert world.directory(0).next_wake_at(now=world.now) is None


@pytest.mark.parametrize("path", ["query", "claim"])
def test_b10_the_timeout_in_the_body_counts(world: LocalWorld, alice: LocalClient, path: str) -> None:
    """Fault B10: a client says in the body how long it will wait."""
    members: Json = {
        "query": {"device_keys": {"@x:two.example": []}},
        "claim": {"one_time_keys": {"@x:two.example": {"A": "b"}}},
    }
    for timeout, expected in ((5000, 5000), (None, 10_000)):
        body = {**members[path], **({} if timeout is None else {"timeout": timeout})}
        request = http("POST", f"/_matrix/client/v3/keys/{path}", body)
        exchange = world.directory(0).receive_client_request(request, requester=alice.requester, now=world.now)
        assert [asked.timeout_ms for asked in exchange.requests] == [expected]


def test_b11_ones_own_signature_is_there_however_the_key_came(
    world: LocalWorld, alice: LocalClient, bob: LocalClient
) -> None:
    """Fault B11: what I signed of somebody I see on the key whether it was just fetched or is known."""
    for client in (alice, bob):
        client.set_up_identity()
    verified = alice.user.sample.verified(bob.user.sample.master_key).to_json()
    assert alice.upload_signatures(bob.user, {bob.user.master_name: verified}) == {}
    expected = {bob.user.user_id: verified}
    assert alice.query_of(bob.user)["master_keys"] == expected  # a stranger: his server was asked
    world.share_room(alice.user, bob.user)
    assert alice.query_of(bob.user)["master_keys"] == expected  # not known yet
    world.settle()
    assert alice.query_of(bob.user)["master_keys"] == expected  # known
    world.down(1)
    world.restart(0)
    assert alice.query_of(bob.user)["master_keys"] == expected  # and remembered


class TestB12:
    """Fault B12: an identity that is told is verified before it is stored or served."""

    @pytest.fixture
    def since(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> str:
        keys = {"master_key": eve.master_key.to_json(), "self_signing_key": eve.self_signing_key.to_json()}
        peer.answers_devices(eve, 5, [device(eve)], **keys)
        let_in(world, alice, eve)
        return alice.token

    def forged(self, user: SampleUser) -> dict[str, Json]:
        other = SampleUser(f"@other:{user.user_id.partition(':')[2]}")
        new = SampleUser(user.user_id, 1)
        return {
            "a foreign user": {"master_key": other.master_key.to_json()},
            "another usage": {"master_key": {**new.master_key.to_json(), "usage": ["self_signing"]}},
            "a name that is not the key": {
                "master_key": {**new.master_key.to_json(), "keys": {"ed25519:x": str(new.master_public_key)}}
            },
            "an unsigned self-signing key": {
                "self_signing_key": {**new.self_signing_key.to_json(), "signatures": {}},
            },
            "a self-signing key of another master key": {"self_signing_key": new.self_signing_key.to_json()},
            "no keys at all": {"master_key": {}, "self_signing_key": "text"},
        }

    @pytest.mark.parametrize("place", range(6))
    def test_in_an_edu(self, alice: LocalClient, peer: Peer, eve: SampleUser, since: str, place: int) -> None:
        keys = list(self.forged(eve).values())[place]
        peer.tell({"edu_type": "m.signing_key_update", "content": {"user_id": eve.user_id, **keys}})
        answer = ask_for(alice, eve)
        assert answer["master_keys"] == {eve.user_id: eve.master_key.to_json()}
        assert answer["self_signing_keys"] == {eve.user_id: eve.self_signing_key.to_json()}

    @pytest.mark.parametrize("place", range(6))
    def test_among_the_devices(self, alice: LocalClient, peer: Peer, eve: SampleUser, since: str, place: int) -> None:
        keys = list(self.forged(eve).values())[place]
        peer.answers_devices(eve, 8, [device(eve)], **keys)
        peer.tell(device_edu(eve, "ONE", 8, [7], keys=device(eve)))
        self.serves_no_forgery(alice, eve, keys)

    @pytest.mark.parametrize("place", range(6))
    def test_in_the_answer_to_a_query(self, alice: LocalClient, peer: Peer, place: int) -> None:
        zoe = peer.user("zoe")
        keys = list(self.forged(zoe).values())[place]
        peer.answers_query(
            device_keys={zoe.user_id: {}},
            **{f"{name}s": {zoe.user_id: key} for name, key in keys.items()},
        )
        self.serves_no_forgery(alice, zoe, keys)

    def serves_no_forgery(self, client: LocalClient, user: SampleUser, keys: Json) -> None:
        answer = ask_for(client, user)
        for name, key in keys.items():
            assert answer.get(f"{name}s", {}).get(user.user_id) != key


class TestB13:
    """Fault B13: of an answer counts what was asked, about users of the server that answers, and what agrees with
    itself.
    """

    def test_a_query(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        bob = world.new_client("bob")
        zoe, other = peer.user("zoe"), SampleUser("@other:elsewhere.example")
        peer.answers_query(
            device_keys={
                eve.user_id: {
                    "ONE": device(eve),
                    "TWO": device(eve, "TWO"),
                    "THREE": device(zoe, "THREE"),
                    "FOUR": device(eve, "OTHER"),
                    "FIVE": "text",
                },
                zoe.user_id: {"ONE": device(zoe)},
                other.user_id: {"ONE": device(other)},
                bob.user.user_id: {"PHONE": device(bob.user.sample, "PHONE", forged=True)},
            },
            master_keys={user.user_id: user.master_key.to_json() for user in (eve, zoe, other, bob.user.sample)},
            user_signing_keys={eve.user_id: eve.user_signing_key.to_json()},
        )
        body = {eve.user_id: ["ONE", "THREE", "FOUR", "FIVE"], bob.user.user_id: []}
        answer = alice.query({"device_keys": body}).good
        devices = {user: list(found) for user, found in answer["device_keys"].items()}
        assert devices == {eve.user_id: ["ONE"], bob.user.user_id: ["PHONE"]}
        assert without(answer["device_keys"][bob.user.user_id]["PHONE"], "unsigned") == bob.device_keys()
        assert answer["master_keys"] == {eve.user_id: eve.master_key.to_json()}
        assert answer.get("user_signing_keys", {}) == {}
        assert answer["failures"] == {}

    def test_a_claim(self, world: LocalWorld, alice: LocalClient, peer: Peer, eve: SampleUser) -> None:
        bob = world.new_client("bob")
        zoe = peer.user("zoe")
        keys = {name: {str((key := eve.one_time_key(name, "1")).key_id): key.to_json()} for name in ("ONE", "TWO")}
        peer.answers_claim(
            {
                eve.user_id: {**keys, "THREE": {"other:1": "text"}, "FOUR": {f"{SIGNED}:1": "text"}},
                zoe.user_id: {"ONE": keys["ONE"]},
                bob.user.user_id: {"PHONE": keys["ONE"]},
            }
        )
        claims = {eve.user_id: dict.fromkeys(("ONE", "THREE", "FOUR"), SIGNED), bob.user.user_id: {"PHONE": SIGNED}}
        answer = alice.claim({"one_time_keys": claims}).good
        assert answer == {"one_time_keys": {eve.user_id: {"ONE": keys["ONE"]}}, "failures": {}}


@pytest.mark.parametrize("key_id", [":", "alg:", ":name", "", "nocolon", "a:b:c"])
def test_b14_half_a_key_id_is_none(lax_world: LocalWorld, key_id: str) -> None:
    """Fault B14, attack 49: an algorithm and a name, and one colon between them."""
    client = lax_world.new_client("alice")
    for member in ("one_time_keys", "fallback_keys"):
        assert client.upload({member: {key_id: "text"}}).error == (400, "M_BAD_JSON")
    assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 0}}


def test_b15_the_signature_of_a_device_on_the_master_key_is_federated(
    world: LocalWorld, alice: LocalClient, bob: LocalClient
) -> None:
    """Fault B15: others see which device signed the master key, as soon as it has, on other servers too."""
    world.share_room(alice.user, bob.user)
    bob.set_up_identity()
    world.settle()
    since = alice.token
    assert bob.upload_signatures(bob.user, {bob.user.master_name: by_device(bob)}) == {}
    world.settle()
    assert alice.changed_since(since) == [bob.user.user_id]
    assert alice.query_of(bob.user)["master_keys"] == {bob.user.user_id: by_device(bob)}


@pytest.mark.parametrize("is_restarted", [False, True])
def test_b16_a_claimed_key_does_not_come_back(world: LocalWorld, alice: LocalClient, is_restarted: bool) -> None:
    """Fault B16, attack 46: a key that was claimed is not claimed again, though its owner uploads it once more."""
    keys = alice.one_time_keys("1")
    alice.upload({"one_time_keys": keys})
    assert alice.claim_of(alice) == keys
    if is_restarted:
        world.restart(0)
    again = {f"{SIGNED}:2": keys[f"{SIGNED}:1"]}
    for body in (keys, again):
        assert alice.upload({"one_time_keys": body}).good == {"one_time_key_counts": {SIGNED: 0}}
        assert alice.claim_of(alice) == {}
    other = {f"{SIGNED}:1": alice.one_time_key("2")[1]}
    assert alice.upload({"one_time_keys": other}).error == (400, "M_UNKNOWN")


def test_b17_a_key_is_read_before_it_is_stored(alice: LocalClient) -> None:
    """Fault B17, attack 54: a key that is no key is refused though it is signed, and nothing is stored of the upload."""
    sample = alice.user.sample
    name = base64.b64encode(bytes(31)).decode().rstrip("=")
    key = {"user_id": sample.user_id, "usage": ["self_signing"], "keys": {f"ed25519:{name}": name}}
    key = signed(key, sample.user_id, sample.secret("master").cross_signer())
    answer = alice.device_signing({**alice.user.identity("master"), "self_signing_key": key})
    assert answer.error == (400, "M_INVALID_PARAM")
    served = alice.query_of(alice.user)
    assert (served["master_keys"], served["self_signing_keys"]) == ({}, {})


def test_b18_signatures_of_others_are_not_passed_on(world: LocalWorld, alice: LocalClient) -> None:
    """Fault B18: what others have signed is not published because somebody embeds it in an upload."""
    carol = world.new_client("carol")
    foreign = carol.user.sample.secret("user_signing").cross_signer()
    identity = alice.user.identity()
    device_keys = alice.device_keys()
    one_time = alice.one_time_keys("1")
    strangers = {"@carol:one.example": {"ed25519:X": "x"}}
    keys = {
        **one_time[f"{SIGNED}:1"],
        "signatures": {**one_time[f"{SIGNED}:1"]["signatures"], **strangers},
    }
    body = {role: signed(key, carol.user.user_id, foreign) for role, key in identity.items()}
    assert alice.device_signing(body) == (200, {})
    uploaded = alice.upload(
        {"device_keys": signed(device_keys, carol.user.user_id, foreign), "one_time_keys": {f"{SIGNED}:1": keys}}
    )
    assert uploaded.status == 200
    for client in (alice, carol):
        answer = client.query_of(alice.user)
        assert answer["master_keys"] == {alice.user.user_id: identity["master_key"]}
        assert answer["self_signing_keys"] == {alice.user.user_id: identity["self_signing_key"]}
        assert client.devices_of(alice.user) == {"PHONE": device_keys}
    assert carol.claim_of(alice) == one_time


def test_b19_a_conflict_refuses_the_whole_upload(alice: LocalClient) -> None:
    """Fault B19: if one key of an upload is refused, nothing of it is stored: no device keys, no fallback key, and none
    of the other one-time keys.
    """
    alice.upload({"one_time_keys": alice.one_time_keys("1")})
    since = alice.token
    fallback_id, fallback_key = alice.one_time_key("f", fallback=True)
    answer = alice.upload(
        {
            "device_keys": alice.device_keys(version=2),
            "one_time_keys": {f"{SIGNED}:1": alice.one_time_key("other")[1], **alice.one_time_keys("2")},
            "fallback_keys": {fallback_id: fallback_key},
        }
    )
    assert answer.error == (400, "M_UNKNOWN")
    assert alice.changed_since(since) == []
    assert alice.devices_of(alice.user) == {"PHONE": alice.device_keys()}
    assert alice.sync()["device_unused_fallback_key_types"] == []
    assert [alice.claim_of(alice) for _ in range(2)] == [alice.one_time_keys("1"), {}]


def test_b20_a_signature_is_there_once(world: LocalWorld, alice: LocalClient, bob: LocalClient) -> None:
    """Fault B20: a signature that is uploaded again is one signature, and no news."""
    for client in (alice, bob):
        client.set_up_identity()
    verified = alice.user.sample.verified(bob.user.sample.master_key).to_json()
    since = None
    for _ in range(3):
        assert alice.upload_signatures(alice.user, {alice.user.master_name: by_device(alice)}) == {}
        assert alice.upload_signatures(bob.user, {bob.user.master_name: verified}) == {}
        since = since or alice.token
    assert alice.changed_since(since) == []
    stored = world.directory(0).user(alice.user.user_id)
    assert stored is not None
    assert len(stored.signatures) == 1
    assert alice.query_of(alice.user)["master_keys"] == {alice.user.user_id: by_device(alice)}


@pytest.mark.parametrize("shows", [False, True])
def test_b21_what_is_unsigned_is_not_published(shows: bool) -> None:
    """Fault B21: what a client says in ``unsigned`` goes nowhere; what a device is called, says the server."""
    world = LocalWorld(shows_display_names=shows)
    peer = Peer(world)
    alice = world.new_user("alice").log_in("PHONE", display_name="Hers")
    unsigned = {"device_display_name": "FORGED", "more": "FORGED"}
    assert alice.upload({"device_keys": {**alice.device_keys(), "unsigned": unsigned}}).status == 200
    bob = world.new_client("bob")
    told: Json = {"device_display_name": "Hers"}
    for client in (alice, bob):
        assert client.query_of(alice.user)["device_keys"][alice.user.user_id]["PHONE"]["unsigned"] == told
    expected = told if shows else {}
    answers = [peer.devices(alice.user.user_id).good, peer.query({alice.user.user_id: []}).good]
    assert "FORGED" not in str(answers)
    entry = answers[0]["devices"][0]
    assert entry.get("device_display_name") == expected.get("device_display_name")
    assert answers[1]["device_keys"][alice.user.user_id]["PHONE"].get("unsigned", {}) == expected


class TestFurtherFaults:
    def test_a_conflict_overwrites_nothing(self, lax_world: LocalWorld) -> None:
        client = lax_world.new_client("alice")
        client.upload({"one_time_keys": {"a:1": "first"}})
        assert client.upload({"one_time_keys": {"a:1": "second"}}).error == (400, "M_UNKNOWN")
        assert client.claim_of(client, "a") == {"a:1": "first"}

    def test_each_user_of_a_server_is_asked_about_his_own_devices(self, world: LocalWorld, alice: LocalClient) -> None:
        users = [world.new_client(name, server=1) for name in ("bob", "carol", "dave")]
        for client in users:
            client.user.log_in("LAPTOP").publish()
        asked = dict(zip((client.user.user_id for client in users), (["PHONE"], ["LAPTOP"], []), strict=True))
        answer = alice.query({"device_keys": asked}).good["device_keys"]
        assert [sorted(answer[user]) for user in asked] == [["PHONE"], ["LAPTOP"], ["LAPTOP", "PHONE"]]

    def test_a_failure_is_told_though_there_is_something_to_show(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient
    ) -> None:
        carol = world.new_client("carol", server=2)
        world.down(1)
        answer = alice.query_of(alice.user, bob.user, carol.user)
        assert list(answer["failures"]) == ["two.example"]
        assert set(answer["device_keys"]) == {alice.user.user_id, carol.user.user_id}

    def test_a_server_that_fails_does_not_hold_up_the_others(
        self, world: LocalWorld, alice: LocalClient, bob: LocalClient
    ) -> None:
        carol = world.new_client("carol", server=2)
        for client in (bob, carol):
            client.upload({"one_time_keys": client.one_time_keys("1")})
        world.down(1)
        claims = {client.user.user_id: {"PHONE": SIGNED} for client in (bob, carol)}
        answer = alice.claim({"one_time_keys": claims}).good
        assert answer["one_time_keys"] == {carol.user.user_id: {"PHONE": carol.one_time_keys("1")}}
        assert list(answer["failures"]) == ["two.example"]

    def test_a_master_key_without_any_signature_can_be_signed(self, alice: LocalClient) -> None:
        master = without(alice.user.identity()["master_key"], "signatures")
        assert alice.device_signing({"master_key": master}) == (200, {})
        assert alice.upload_signatures(alice.user, {alice.user.master_name: by_device(alice)}) == {}

    def test_devices_without_keys_do_not_hide_the_others(self, alice: LocalClient, peer: Peer) -> None:
        alice.user.log_in("LAPTOP")
        devices = {entry["device_id"]: entry for entry in peer.devices(alice.user.user_id).good["devices"]}
        assert devices["PHONE"]["keys"] == alice.device_keys()

    def test_the_order_of_uploads_survives_a_restart(self, world: LocalWorld, alice: LocalClient) -> None:
        for name in ("2", "1"):
            alice.upload({"one_time_keys": alice.one_time_keys(name)})
        world.restart(0)
        alice.upload({"one_time_keys": alice.one_time_keys("0")})
        order = [next(iter(alice.claim_of(alice))) for _ in range(3)]
        assert order == [f"{SIGNED}:{name}" for name in ("2", "1", "0")]
