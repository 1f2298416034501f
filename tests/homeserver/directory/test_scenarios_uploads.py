"""Conformance: uploading, querying and claiming keys.

Not played: keys claimed and queried through an application service, which is a protocol of its own; fallback keys handed
out beside one-time keys on demand, lists of algorithms in one claim, and queries limited to users who share a room,
which are not in the specification; a clean-up of old one-time keys, which is one server's own business.
"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.directory.servers import Json, LocalClient, LocalWorld, http, without
from matrix_e2e_keys import DeviceKeys, HttpRequest, LocalProtocolError, MatrixError, OneTimeKey
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.policies import STRICT
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key

SIGNED = "signed_curve25519"
LAX_DEVICE: Json = {
    "algorithms": ["my_algorithm"],
    "keys": {"curve25519:PHONE": "curve25519+key", "my_algorithm:my_id_1": "my+key"},
    "signatures": {},
}
LAX_ONE_TIME_KEYS: Json = {"my_algorithm:my_id_1": "my+base64+key", "other_algorithm:1": {"key": "k", "signatures": {}}}


def lax_device(client: LocalClient) -> Json:
    return {**LAX_DEVICE, "user_id": client.user.user_id, "device_id": client.device_id}


def wanted(*clients: LocalClient, algorithm: str = SIGNED) -> Json:
    claims: Json = {}
    for client in clients:
        claims.setdefault(client.user.user_id, {})[client.device_id] = algorithm
    return {"one_time_keys": claims}


class TestUploading:
    def test_counts_are_those_of_the_keys_uploaded(self, world: LocalWorld) -> None:
        """Conformance: device keys can be uploaded, and the counts are told by algorithm."""
        client = world.new_user("alice").log_in("PHONE")
        keys = {**client.one_time_keys("1", "2"), "curve25519:a": client.one_time_key("a")[1]["key"]}
        answer = client.upload({"device_keys": client.device_keys(), "one_time_keys": keys})
        assert answer == (200, {"one_time_key_counts": {SIGNED: 2, "curve25519": 1}})

    def test_an_empty_body_asks_for_the_counts(self, world: LocalWorld) -> None:
        """Conformance: an empty upload changes nothing and tells the counts, a zero too."""
        client = world.new_user("alice").log_in("PHONE")
        assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 0}}
        client.publish("1")
        assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 1}}
        assert client.devices_of(client.user) == {"PHONE": client.device_keys()}

    def test_keys_that_nobody_can_check_are_stored_where_the_policy_is_lax(self, lax_world: LocalWorld) -> None:
        """Conformance: a server need not understand the keys that it stores."""
        client = lax_world.new_user("alice").log_in("PHONE")
        answer = client.upload({"device_keys": lax_device(client), "one_time_keys": LAX_ONE_TIME_KEYS})
        assert answer.good == {"one_time_key_counts": {SIGNED: 0, "my_algorithm": 1, "other_algorithm": 1}}
        assert client.devices_of(client.user) == {"PHONE": lax_device(client)}
        assert client.claim_of(client, "my_algorithm") == {"my_algorithm:my_id_1": "my+base64+key"}
        assert client.claim_of(client, "other_algorithm") == {"other_algorithm:1": {"key": "k", "signatures": {}}}

    def test_such_keys_are_not_believed_of_other_servers(self, lax_world: LocalWorld) -> None:
        """What other servers tell is checked whatever the policy: it says what one's own users may upload."""
        alice, bob = lax_world.new_client("alice"), lax_world.new_user("bob", server=1).log_in("PHONE")
        bob.upload({"device_keys": lax_device(bob), "one_time_keys": LAX_ONE_TIME_KEYS})
        assert alice.query_of(bob.user)["device_keys"] == {bob.user.user_id: {}}
        assert alice.claim_of(bob, "my_algorithm") == {"my_algorithm:my_id_1": "my+base64+key"}

    def test_the_same_keys_are_refused_by_default(self, world: LocalWorld) -> None:
        client = world.new_user("alice").log_in("PHONE")
        answer = client.upload({"device_keys": lax_device(client), "one_time_keys": LAX_ONE_TIME_KEYS})
        assert answer.status == 400
        assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 0}}
        assert client.devices_of(client.user) == {}

    @pytest.mark.parametrize("is_lax", [False, True])
    @pytest.mark.parametrize(
        "device_keys",
        [
            {"user_id": "@alice:one.example", "device_id": "PHONE"},
            "text",
            [],
            7,
            None,
            {**LAX_DEVICE, "user_id": "@alice:one.example", "device_id": "PHONE", "algorithms": "text"},
            {**LAX_DEVICE, "user_id": "@alice:one.example", "device_id": "PHONE", "keys": ["text"]},
            {**LAX_DEVICE, "user_id": "@alice:one.example", "device_id": "PHONE", "keys": {"curve25519:PHONE": {}}},
            {**LAX_DEVICE, "user_id": "@alice:one.example", "device_id": "PHONE", "signatures": None},
            {**LAX_DEVICE, "user_id": "@alice:one.example", "device_id": "PHONE", "signatures": {"@a:b": "text"}},
        ],
    )
    def test_what_are_no_device_keys_is_refused(
        self, world: LocalWorld, lax_world: LocalWorld, is_lax: bool, device_keys: object
    ) -> None:
        """Conformance: invalid device keys are refused, null among them."""
        client = (lax_world if is_lax else world).new_user("alice").log_in("PHONE")
        assert client.upload({"device_keys": device_keys}).error == (400, "M_BAD_JSON")
        assert client.devices_of(client.user) == {}

    @pytest.mark.parametrize("is_lax", [False, True])
    def test_keys_of_somebody_else_are_refused(self, world: LocalWorld, lax_world: LocalWorld, is_lax: bool) -> None:
        """Conformance: keys that claim to belong to another user, or to another device, are refused."""
        here = lax_world if is_lax else world
        client, bob = here.new_user("alice").log_in("PHONE"), here.new_client("bob")
        other = client.user.log_in("LAPTOP")
        for device_keys in (bob.device_keys(), other.device_keys()):
            assert client.upload({"device_keys": device_keys}).error == (400, "M_BAD_JSON")
        assert client.devices_of(client.user) == {}
        assert client.devices_of(bob.user) == {"PHONE": bob.device_keys()}

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            (b"{", (400, "M_NOT_JSON")),
            (b"\xff", (400, "M_NOT_JSON")),
            (b"[]", (400, "M_BAD_JSON")),
            (b'"text"', (400, "M_BAD_JSON")),
            (b'{"one_time_keys": []}', (400, "M_BAD_JSON")),
            (b'{"one_time_keys": {"nocolon": "text"}}', (400, "M_BAD_JSON")),
            (b'{"one_time_keys": {"a:b:c": "text"}}', (400, "M_BAD_JSON")),
            (b'{"one_time_keys": {"a:b": 7}}', (400, "M_BAD_JSON")),
            (b'{"fallback_keys": {"a:b": null}}', (400, "M_BAD_JSON")),
        ],
    )
    def test_a_body_of_another_structure_is_refused(
        self, lax_world: LocalWorld, body: bytes, error: tuple[int, str]
    ) -> None:
        """Conformance: an invalid structure is refused, and nothing of it is stored."""
        client = lax_world.new_user("alice").log_in("PHONE")
        assert client.upload(body).error == error
        assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 0}}

    def test_a_malformed_key_id_is_named(self, world: LocalWorld) -> None:
        client = world.new_user("alice").log_in("PHONE")
        answer = client.upload({"one_time_keys": {"nocolon": "text"}})
        expected = "Invalid one_time_keys key 'nocolon'. Expected \"<algorithm>:<device_id>\"."
        assert answer == (400, {"errcode": "M_BAD_JSON", "error": expected})

    def test_a_token_without_a_device_uploads_nothing(self, world: LocalWorld) -> None:
        client = world.new_client("alice")
        nobody = Requester(user_id=client.user.user_id)
        answer = client.ask_as(nobody, http("POST", "/_matrix/client/v3/keys/upload", {}))
        assert answer.error == (400, "M_UNKNOWN")

    def test_a_token_of_nobody_is_refused(self, world: LocalWorld) -> None:
        client = world.new_client("alice")
        gone = Requester(user_id=client.user.user_id, device_id="GONE")
        answer = client.ask_as(gone, http("POST", "/_matrix/client/v3/keys/upload", {}))
        assert answer.error == (401, "M_UNKNOWN_TOKEN")

    def test_keys_uploaded_again_change_nothing(self, world: LocalWorld) -> None:
        """Conformance: device keys that are uploaded again unchanged are no change, and nobody is told."""
        client = world.new_client("alice")
        since = client.token
        client.publish()
        assert client.changed_since(since) == []

    def test_the_draft_of_2015_names_the_device_in_the_path(self, lax_world: LocalWorld) -> None:
        client = lax_world.new_user("alice").log_in("PHONE")
        path = "/_matrix/client/v2_alpha/keys"
        one_time_key = client.one_time_key("1")[1]["key"]
        body = {"device_keys": client.device_keys(), "one_time_keys": {"curve25519:1": one_time_key}}
        answer = client.ask(http("POST", f"{path}/upload/PHONE", body))
        assert answer.good["one_time_key_counts"]["curve25519"] == 1
        assert client.ask(http("POST", f"{path}/upload/OTHER", body)).error == (403, "M_FORBIDDEN")
        keyless = client.user.log_in("LAPTOP")
        found = keyless.ask(http("POST", f"{path}/query", {"device_keys": {client.user.user_id: []}})).good
        assert list(found) == ["device_keys"]
        devices = found["device_keys"][client.user.user_id]
        assert devices["LAPTOP"]["keys"] == {}
        assert all("one.example" in keys["signatures"] for keys in devices.values())
        claimed = keyless.ask(http("POST", f"{path}/claim", wanted(client, algorithm="curve25519"))).good
        expected = {client.user.user_id: {"PHONE": {"curve25519:1": one_time_key}}}
        assert claimed == {"one_time_keys": expected}

    def test_the_draft_of_2015_knows_no_failures(self, lax_world: LocalWorld) -> None:
        client = lax_world.new_user("alice").log_in("PHONE")
        assert list(client.post("claim", {"one_time_keys": {}}, version="v2_alpha").good) == ["one_time_keys"]

    def test_in_2015_a_key_that_is_taken_goes_out_whatever_it_is(self, world: LocalWorld) -> None:
        """The draft has no signed keys. One that was claimed is gone, so it is better handed out than lost."""
        client = world.new_client("alice")
        client.upload({"one_time_keys": client.one_time_keys("1")})
        answer = client.post("claim", wanted(client), version="v2_alpha").good
        assert answer["one_time_keys"] == {client.user.user_id: {"PHONE": client.one_time_keys("1")}}


class TestQuerying:
    def test_all_devices(self, world: LocalWorld, server: int) -> None:
        """Conformance: all devices of a user are found, with what was uploaded and no name."""
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        answer = alice.query({"device_keys": {bob.user.user_id: []}}).good
        assert answer["device_keys"] == {bob.user.user_id: {"PHONE": {**bob.device_keys(), "unsigned": {}}}}
        assert answer["failures"] == {}

    def test_one_device(self, world: LocalWorld, server: int) -> None:
        """Conformance: of several devices only the ones asked for are found, and what is in them is what was
        uploaded.
        """
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        others = [bob.user.log_in(name) for name in ("LAPTOP", "TABLET")]
        for other in others:
            other.publish()
        answer = alice.query({"device_keys": {bob.user.user_id: ["PHONE", "TABLET"]}}).good
        found = answer["device_keys"][bob.user.user_id]
        assert sorted(found) == ["PHONE", "TABLET"]
        for name in ("algorithms", "keys", "signatures"):
            assert found["PHONE"][name] == bob.device_keys()[name]

    def test_a_user_without_keys(self, world: LocalWorld, server: int) -> None:
        """Conformance: a user who has no keys is there, with no devices."""
        alice, bob = world.new_client("alice"), world.new_user("bob", server=server)
        bob.log_in("PHONE")
        answer = alice.query({"device_keys": {bob.user_id: []}}).good
        assert (answer["device_keys"], answer["failures"]) == ({bob.user_id: {}}, {})

    def test_a_user_of_this_server_whom_nobody_knows(self, world: LocalWorld) -> None:
        """Conformance: whoever has no devices gets an empty entry, known or not."""
        alice = world.new_client("alice")
        assert alice.query({"device_keys": {"@nobody:one.example": []}}).good["device_keys"] == {
            "@nobody:one.example": {}
        }

    def test_a_device_that_is_not_there(self, world: LocalWorld, server: int) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        answer = alice.query({"device_keys": {bob.user.user_id: ["OTHER", "PHONE"]}}).good
        assert list(answer["device_keys"][bob.user.user_id]) == ["PHONE"]

    def test_the_name_of_a_device(self, world: LocalWorld) -> None:
        """Conformance: the name of a device is told in ``unsigned``, and nowhere else."""
        client = world.new_user("alice").log_in("PHONE", display_name="My phone")
        client.publish()
        found = client.query_of(client.user)["device_keys"][client.user.user_id]["PHONE"]
        assert found["unsigned"] == {"device_display_name": "My phone"}
        assert without(found, "unsigned") == client.device_keys()

    def test_the_name_of_a_device_is_not_told_to_other_servers(self, world: LocalWorld) -> None:
        """Conformance: by default, other servers do not learn what a device is called."""
        alice, bob = world.new_client("alice"), world.new_user("bob", server=1).log_in("PHONE", display_name="Bob's")
        bob.publish()
        assert alice.query_of(bob.user)["device_keys"][bob.user.user_id]["PHONE"]["unsigned"] == {}

    def test_the_name_of_a_device_is_told_to_other_servers_if_wanted(self) -> None:
        """Conformance: a server can be set up to tell other servers what devices are called, a new name included."""
        world = LocalWorld(shows_display_names=True)
        alice, bob = world.new_client("alice"), world.new_user("bob", server=1).log_in("PHONE", display_name="Old")
        bob.publish()
        bob.rename("New")
        found = alice.query_of(bob.user)["device_keys"][bob.user.user_id]["PHONE"]
        assert found["unsigned"] == {"device_display_name": "New"}

    @pytest.mark.parametrize("devices", [{"PHONE": True}, {}, None, "PHONE", True, [True], [None], [["PHONE"]]])
    def test_what_is_no_list_of_devices_is_refused(self, world: LocalWorld, devices: object) -> None:
        """Conformance: only a list of strings asks for devices."""
        alice = world.new_client("alice")
        assert alice.query({"device_keys": {alice.user.user_id: devices}}).error == (400, "M_BAD_JSON")

    @pytest.mark.parametrize("body", [{}, {"device_keys": None}, {"device_keys": []}, {"device_keys": "text"}])
    def test_a_query_must_say_whom_it_is_about(self, world: LocalWorld, body: object) -> None:
        """Conformance: a query without ``device_keys`` is refused."""
        assert world.new_client("alice").query(body).error == (400, "M_BAD_JSON")

    def test_what_is_no_user_is_left_out(self, world: LocalWorld) -> None:
        alice = world.new_client("alice")
        answer = alice.query({"device_keys": {"nobody": [], alice.user.user_id: []}}).good
        assert list(answer["device_keys"]) == [alice.user.user_id]
        assert answer["failures"] == {}


class TestClaiming:
    def test_a_key_is_handed_out_once(self, world: LocalWorld, server: int) -> None:
        """Conformance: a claim returns the key as it was uploaded; a second claim does not even name the user."""
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        bob.upload({"one_time_keys": bob.one_time_keys("1")})
        assert alice.claim(wanted(bob)).good == {
            "one_time_keys": {bob.user.user_id: {"PHONE": bob.one_time_keys("1")}},
            "failures": {},
        }
        assert alice.claim(wanted(bob)).good == {"one_time_keys": {}, "failures": {}}
        assert bob.upload({}).good == {"one_time_key_counts": {SIGNED: 0}}

    def test_the_key_that_was_uploaded_first_is_claimed_first(self, world: LocalWorld, server: int) -> None:
        """Conformance: keys are claimed in the order of their uploads, whatever their ids."""
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        for name in ("1", "0", "9", "5"):
            bob.upload({"one_time_keys": bob.one_time_keys(name)})
        claimed = [alice.claim_of(bob) for _ in range(5)]
        assert [list(key) for key in claimed] == [[f"{SIGNED}:{name}"] for name in ("1", "0", "9", "5")] + [[]]

    def test_keys_of_many_devices_at_once(self, world: LocalWorld, server: int) -> None:
        """Conformance: one claim can ask for keys of several users and devices, and of several algorithms in turn."""
        alice = world.new_client("alice")
        devices: list[LocalClient] = []
        for name in ("bob", "carol", "dave"):
            user = world.new_user(name, server=server)
            devices += [user.log_in("PHONE"), user.log_in("LAPTOP")]
        for device in devices:
            device.publish("1", "2")
            device.upload({"one_time_keys": {"curve25519:x": device.one_time_key("x")[1]["key"]}})
        for place in ("1", "2"):
            answer = alice.claim(wanted(*devices)).good["one_time_keys"]
            assert answer == {
                user: {
                    device.device_id: device.one_time_keys(place) for device in devices if device.user.user_id == user
                }
                for user in {device.user.user_id for device in devices}
            }
        answer = alice.claim(wanted(*devices, algorithm="curve25519")).good["one_time_keys"]
        assert sum(len(found) for found in answer.values()) == len(devices)

    def test_each_device_has_an_order_of_its_own(self, world: LocalWorld, server: int) -> None:
        """Conformance: the order of uploads holds for each device when several are claimed from at once."""
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        other = bob.user.log_in("LAPTOP")
        other.publish()
        for first, second in (("3", "1"), ("1", "2"), ("2", "3")):
            bob.upload({"one_time_keys": bob.one_time_keys(first)})
            other.upload({"one_time_keys": other.one_time_keys(second)})
        order = []
        for _ in range(3):
            keys = alice.claim(wanted(bob, other)).good["one_time_keys"][bob.user.user_id]
            order.append([next(iter(keys[name])).partition(":")[2] for name in ("PHONE", "LAPTOP")])
        assert order == [["3", "1"], ["1", "2"], ["2", "3"]]

    def test_some_have_a_key_and_others_not(self, world: LocalWorld, server: int) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        other = bob.user.log_in("LAPTOP")
        other.publish("1")
        answer = alice.claim(wanted(bob, other)).good
        assert answer["one_time_keys"] == {bob.user.user_id: {"LAPTOP": other.one_time_keys("1")}}

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"one_time_keys": None},
            {"one_time_keys": []},
            {"one_time_keys": {"@bob:one.example": ["PHONE"]}},
            {"one_time_keys": {"@bob:one.example": {"PHONE": [SIGNED]}}},
            {"one_time_keys": {"@bob:one.example": {"PHONE": None}}},
        ],
    )
    def test_what_is_no_claim_is_refused(self, world: LocalWorld, body: object) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys("1")})
        assert alice.claim(body).error == (400, "M_BAD_JSON")
        assert bob.upload({}).good == {"one_time_key_counts": {SIGNED: 1}}


class TestClaimingTooMuch:
    def test_whoever_takes_many_keys_of_a_device_gets_its_fallback_key(self, world: LocalWorld) -> None:
        """Attack 47: nobody empties the keys of a device alone; others still get one."""
        alice, bob, carol = (world.new_client(name) for name in ("alice", "bob", "carol"))
        bob.upload({"one_time_keys": bob.one_time_keys(*map(str, range(30)))})
        fallback = dict([bob.one_time_key("f", fallback=True)])
        bob.upload({"fallback_keys": fallback})
        claimed = [alice.claim_of(bob) for _ in range(30)]
        assert claimed[-1] == fallback
        left = bob.upload({}).good["one_time_key_counts"][SIGNED]
        assert left == 30 - sum(key != fallback for key in claimed)
        assert left >= 15
        assert carol.claim_of(bob) != fallback

    def test_the_count_begins_anew_later_and_survives_a_restart(self, world: LocalWorld) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys(*map(str, range(30)))})
        while alice.claim_of(bob):
            pass
        world.restart(0)
        assert alice.claim_of(bob) == {}
        world.later(2 * 3_600_000)
        assert alice.claim_of(bob) != {}

    def test_another_server_gets_25_keys_of_a_device_and_then_its_fallback_key(self, world: LocalWorld) -> None:
        """Attack 47: behind a server are many users, and all of them together do not empty a device."""
        users = [world.new_client(f"user{number}", server=1) for number in range(3)]
        bob = world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys(*map(str, range(50)))})
        fallback = dict([bob.one_time_key("f", fallback=True)])
        bob.upload({"fallback_keys": fallback})
        claimed = [user.claim_of(bob) for user in users for _ in range(15)]
        assert all(key != fallback for key in claimed[:25])
        assert len({next(iter(key)) for key in claimed[:25]}) == 25
        assert claimed[25:] == [fallback] * 20
        assert bob.upload({}).good["one_time_key_counts"][SIGNED] == 25
        # Others are no worse off, and neither is that server an hour later.
        assert world.new_client("carol").claim_of(bob) != fallback
        assert world.new_client("dave", server=2).claim_of(bob) != fallback
        world.restart(0)
        world.later(3_600_000 - 1)
        assert users[0].claim_of(bob) == fallback
        world.later(1)
        assert users[0].claim_of(bob) != fallback

    def test_of_another_device_another_server_gets_keys_all_the_same(self, world: LocalWorld) -> None:
        alice, bob = world.new_client("alice", server=1), world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys(*map(str, range(30)))})
        laptop = bob.user.log_in("LAPTOP")
        laptop.publish("1")
        claimed = [alice.claim_of(bob) for _ in range(30)]
        assert claimed[25:] == [{}] * 5
        assert alice.claim_of(laptop) == laptop.one_time_keys("1")


class TestUploadingAgain:
    def test_the_same_keys_thrice(self, world: LocalWorld) -> None:
        """Conformance: the same one-time keys can be uploaded again and again."""
        client = world.new_client("alice")
        for _ in range(3):
            answer = client.upload({"one_time_keys": client.one_time_keys("1", "2", "3", "4")})
            assert answer.good == {"one_time_key_counts": {SIGNED: 4}}

    def test_uploads_that_overlap(self, world: LocalWorld) -> None:
        """Conformance: of keys that were partly uploaded before, the new ones are added."""
        client = world.new_client("alice")
        for names, count in (("ABC", 3), ("BCD", 4)):
            answer = client.upload({"one_time_keys": client.one_time_keys(*names)})
            assert answer.good == {"one_time_key_counts": {SIGNED: count}}

    def test_the_same_key_with_another_signature(self, lax_world: LocalWorld) -> None:
        """Conformance: a key that is uploaded again with another signature is the same key; the first one stays."""
        client = lax_world.new_client("alice")
        first = client.one_time_keys("1")
        client.upload({"one_time_keys": first})
        again = {f"{SIGNED}:1": {**first[f"{SIGNED}:1"], "signatures": {client.user.user_id: {"ed25519:PHONE": "x"}}}}
        assert client.upload({"one_time_keys": again}).good == {"one_time_key_counts": {SIGNED: 1}}
        assert client.claim_of(client) == first

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("text", "other"),
            ("text", {"key": "text", "signatures": {}}),
            ({"key": "text", "signatures": {}}, "text"),
            ({"key": "text", "signatures": {}}, {"key": "other", "signatures": {}}),
            ({"key": "text", "signatures": {}}, {"key": "text", "more": 1, "signatures": {}}),
        ],
    )
    def test_another_key_under_an_id_that_is_taken(self, lax_world: LocalWorld, before: object, after: object) -> None:
        """Conformance: a key cannot be changed, be it an object or a string before or after."""
        client = lax_world.new_client("alice")
        client.upload({"one_time_keys": {"alg1:k1": before}})
        answer = client.upload({"one_time_keys": {"alg1:k1": after, "alg1:k2": "new"}})
        assert answer.error == (400, "M_UNKNOWN")
        assert answer.body["error"].startswith("One time key alg1:k1 already exists. Old key: ")
        assert "; new key: " in answer.body["error"]
        assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 0, "alg1": 1}}
        assert client.claim_of(client, "alg1") == {"alg1:k1": before}


class TestADeviceThatBeginsAnew:
    """A client that has lost everything but its name makes other keys, and counts its one-time keys from the first."""

    def renewed(self, client: LocalClient, *names: str) -> dict[str, Json]:
        """Return one-time keys that the new client signs."""
        signer = sample_secret_key("renewed").signer("ed25519:PHONE")
        found = {}
        for name in names:
            key = OneTimeKey.build(
                key_id=f"{SIGNED}:{name}",
                key=sample_curve25519_key(f"renewed {name}"),
                user_id=client.user.user_id,
                signer=signer,
            ).to_json()
            assert isinstance(key, dict)
            found[f"{SIGNED}:{name}"] = key
        return found

    def device_keys(self, client: LocalClient) -> Json:
        keys: Json = DeviceKeys.build(
            user_id=client.user.user_id,
            device_id="PHONE",
            curve25519_key=sample_curve25519_key("renewed"),
            signer=sample_secret_key("renewed").signer("ed25519:PHONE"),
        ).to_json()
        return keys

    def test_ids_that_were_claimed_are_taken_again(self, world: LocalWorld, server: int) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        bob.upload({"one_time_keys": bob.one_time_keys("1", "2")})
        before = [alice.claim_of(bob) for _ in range(2)]
        assert bob.upload({"one_time_keys": self.renewed(bob, "1")}).error == (400, "M_UNKNOWN")
        new = self.renewed(bob, "1", "2")
        bob.upload({"device_keys": self.device_keys(bob), "one_time_keys": new})
        claimed = [alice.claim_of(bob) for _ in range(2)]
        assert claimed == [{key_id: key} for key_id, key in new.items()]
        assert not any(key in before for key in claimed)

    def test_keys_that_were_claimed_are_not(self, world: LocalWorld) -> None:
        """Attack 46: whoever has them may have used them."""
        alice, bob = world.new_client("alice"), world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys("1")})
        assert alice.claim_of(bob) == bob.one_time_keys("1")
        answer = bob.upload({"device_keys": self.device_keys(bob), "one_time_keys": bob.one_time_keys("1")})
        assert answer.good == {"one_time_key_counts": {SIGNED: 0}}
        assert alice.claim_of(bob) == {}

    def test_later_uploads_take_ids_again_too(self, world: LocalWorld) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys("1", "2")})
        for _ in range(2):
            alice.claim_of(bob)
        bob.upload({"device_keys": self.device_keys(bob), "one_time_keys": self.renewed(bob, "1")})
        assert bob.upload({"one_time_keys": self.renewed(bob, "2")}).status == 200

    def test_keys_that_nobody_claimed_go(self, world: LocalWorld) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob")
        bob.upload({"one_time_keys": bob.one_time_keys("1", "2")})
        answer = bob.upload({"device_keys": self.device_keys(bob), "one_time_keys": self.renewed(bob, "1")})
        assert answer.status == 200
        assert alice.claim_of(bob) == self.renewed(bob, "1")
        assert alice.claim_of(bob) == {}


class TestFallbackKeys:
    def unused(self, client: LocalClient) -> list[str]:
        types: list[str] = client.sync()["device_unused_fallback_key_types"]
        return types

    def test_from_the_upload_to_the_next_one(self, world: LocalWorld, server: int) -> None:
        """Conformance: a fallback key is unused until it is claimed, is claimed again and again, stays used if it is
        uploaded again, and gives way to a new one, which is unused. One-time keys go first.
        """
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        first, second = (bob.one_time_key(name, fallback=True) for name in ("f1", "f2"))
        assert self.unused(bob) == []
        bob.upload({"fallback_keys": dict([first])})
        assert self.unused(bob) == [SIGNED]
        assert alice.claim_of(bob) == dict([first])
        assert self.unused(bob) == []
        assert alice.claim_of(bob) == dict([first])
        bob.upload({"fallback_keys": dict([first])})
        assert self.unused(bob) == []
        bob.upload({"fallback_keys": dict([second])})
        assert self.unused(bob) == [SIGNED]
        bob.upload({"one_time_keys": bob.one_time_keys("1")})
        assert alice.claim_of(bob) == bob.one_time_keys("1")
        assert self.unused(bob) == [SIGNED]
        assert alice.claim_of(bob) == dict([second])
        assert self.unused(bob) == []

    def test_are_not_counted(self, world: LocalWorld) -> None:
        client = world.new_client("alice")
        answer = client.upload({"fallback_keys": dict([client.one_time_key("f", fallback=True)])})
        assert answer.good == {"one_time_key_counts": {SIGNED: 0}}

    def test_of_many_devices_at_once(self, world: LocalWorld, server: int) -> None:
        """Conformance: one claim can take one-time keys of some devices and fallback keys of others."""
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        other = bob.user.log_in("LAPTOP")
        other.publish("1")
        bob.upload({"fallback_keys": dict([bob.one_time_key("f", fallback=True)])})
        answer = alice.claim(wanted(bob, other)).good["one_time_keys"][bob.user.user_id]
        assert answer == {"PHONE": dict([bob.one_time_key("f", fallback=True)]), "LAPTOP": other.one_time_keys("1")}

    def test_are_marked_as_such_by_default(self, world: LocalWorld, lax_world: LocalWorld) -> None:
        for here, status in ((world, 400), (lax_world, 200)):
            client = here.new_client("alice")
            assert client.upload({"fallback_keys": client.one_time_keys("f")}).status == status


class TestWhatSyncSaysOfKeys:
    def test_a_count_of_zero_is_told(self, world: LocalWorld) -> None:
        """Conformance: the number of one-time keys is always told, and so are the unused fallback keys."""
        client = world.new_user("alice").log_in("PHONE")
        for since in (None, client.token):
            body = client.sync(since)
            assert body["device_one_time_keys_count"] == {SIGNED: 0}
            assert body["device_unused_fallback_key_types"] == []

    def test_the_count_is_that_of_the_device(self, world: LocalWorld) -> None:
        client = world.new_client("alice")
        other = client.user.log_in("LAPTOP")
        client.publish("1", "2")
        assert client.sync()["device_one_time_keys_count"] == {SIGNED: 2}
        assert other.sync()["device_one_time_keys_count"] == {SIGNED: 0}

    def test_lists_are_told_in_incremental_answers_only(self, world: LocalWorld) -> None:
        client = world.new_client("alice")
        first = client.sync()
        assert "device_lists" not in first
        assert client.sync(first["next_batch"])["device_lists"] == {"changed": [], "left": []}

    @pytest.mark.parametrize("since", ["s99999", "x", "", "s01"])
    def test_a_token_of_nobody_is_refused(self, world: LocalWorld, since: str) -> None:
        client = world.new_client("alice")
        with pytest.raises(MatrixError) as caught:
            client.sync(since)
        assert (caught.value.status, caught.value.errcode) == (400, "M_UNKNOWN")
        assert client.changes(since, "s0").status == 400


class TestOtherRequests:
    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (http("POST", "/_matrix/client/v3/keys/nonsense", {}), (404, "M_UNRECOGNIZED")),
            (http("GET", "/_matrix/client/v3/keys/upload"), (405, "M_UNRECOGNIZED")),
            (http("POST", "/_matrix/federation/v1/user/keys/query", {"device_keys": {}}), (404, "M_UNRECOGNIZED")),
            (http("GET", "/_matrix/key/v2/server"), (404, "M_UNRECOGNIZED")),
            (http("GET", "/_matrix/client/v3/keys/changes"), (400, "M_MISSING_PARAM")),
        ],
    )
    def test_what_clients_cannot_ask_is_refused(
        self, world: LocalWorld, request_: HttpRequest, error: tuple[int, str]
    ) -> None:
        assert world.new_client("alice").ask(request_).error == error

    def test_too_much_is_refused(self) -> None:
        world = LocalWorld(policy=STRICT)
        client = world.new_client("alice")
        names = map(str, range(STRICT.limits.one_time_keys_per_upload + 1))
        assert client.upload({"one_time_keys": client.one_time_keys(*names)}).error == (400, "M_TOO_LARGE")
        assert client.upload({}).good == {"one_time_key_counts": {SIGNED: 0}}


class TestMessagesToDevices:
    def test_reach_the_devices_they_are_for_once(self, world: LocalWorld, server: int) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        other = bob.user.log_in("LAPTOP")
        messages: Any = {bob.user.user_id: {"PHONE": {"n": 1}}}
        for _ in range(2):  # the second time it is the same transaction
            assert alice.send_to_device("m.test", messages, txn_id="1").good == {}
            world.settle()
        body = bob.sync()
        event = {"sender": alice.user.user_id, "type": "m.test", "content": {"n": 1}}
        assert body["to_device"]["events"] == [event]
        assert bob.sync()["to_device"]["events"] == [event]
        assert bob.sync(body["next_batch"])["to_device"]["events"] == []
        assert other.sync()["to_device"]["events"] == []

    def test_can_be_for_all_devices(self, world: LocalWorld, server: int) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        other = bob.user.log_in("LAPTOP")
        assert alice.send_to_device("m.test", {bob.user.user_id: {"*": {}}}, txn_id="1").good == {}
        world.settle()
        for device in (bob, other):
            assert [event["type"] for event in device.sync()["to_device"]["events"]] == ["m.test"]

    def test_do_not_wait_for_a_device_that_is_gone(self, world: LocalWorld) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob")
        alice.send_to_device("m.test", {bob.user.user_id: {"PHONE": {}}}, txn_id="1")
        bob.log_out()
        again = bob.user.log_in("PHONE")
        assert again.sync()["to_device"]["events"] == []

    @pytest.mark.parametrize("bad", [1.5, [2**53], {"\ud800": 1}, "\ud800"], ids=["float", "large", "name", "text"])
    def test_are_refused_if_one_of_them_cannot_be_sent(self, world: LocalWorld, server: int, bad: object) -> None:
        alice, bob = world.new_client("alice"), world.new_client("bob", server=server)
        messages = {alice.user.user_id: {"PHONE": {}}, bob.user.user_id: {"PHONE": {"bad": bad}}}
        assert alice.send_to_device("m.test", messages, txn_id="1").error == (400, "M_BAD_JSON")
        world.settle()
        for client in (alice, bob):
            assert client.sync()["to_device"]["events"] == []
        good = {bob.user.user_id: {"PHONE": {"n": 1}}}
        assert alice.send_to_device("m.test", good, txn_id="1").good == {}  # what is refused uses up no transaction id
        world.settle()
        assert [event["content"] for event in bob.sync()["to_device"]["events"]] == [{"n": 1}]

    @pytest.mark.parametrize(
        "messages", [5, {"@bob:one.example": 5}, {"@bob:one.example": {"PHONE": 5}}, {"bob": {"PHONE": {}}}], ids=str
    )
    def test_that_are_none_are_refused(self, world: LocalWorld, messages: object) -> None:
        alice = world.new_client("alice")
        assert alice.send_to_device("m.test", messages, txn_id="1").status == 400


class TestWhoIsThere:
    def test_users_of_other_servers_do_not_log_in_here(self, world: LocalWorld) -> None:
        with pytest.raises(LocalProtocolError):
            world.directory(0).log_in("@bob:two.example", "PHONE", now=world.now)
