"""Steps in any order, taken on both sides: after each of them, both must have said the same, but for what a row allows.

Where the two sides have stored something else, the user in question takes no further part.

One-time keys that one upload brings stand there in the order of their ids: the specification leaves open which of them
is given out first.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from interop.divergences import DIVERGENCES, rows_of
from interop.model_world import ROLES, Device, Json, Room, Seen, World, spoiled, unsigned

WHO: Final = st.integers(0, 9)
SOME: Final = st.lists(WHO, min_size=1, max_size=3)
KEY_NAMES: Final = st.sets(st.integers(0, 7), min_size=1, max_size=4).map(sorted)
SEED: Final = st.sampled_from(["", "", "other"])
PARTING: Final = frozenset(row.name for row in DIVERGENCES if row.parts)


class Steps(RuleBasedStateMachine):
    """Some users of two servers, and what they do.

    Attributes:
        world: both pairs of servers, set by the test.
        taken: how many answers were compared, by kind, in all runs.
        shown: which rows showed, and how often.
    """

    world: ClassVar[World]
    taken: ClassVar[Counter[str]]
    shown: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[Device] = []
        self.room: Room | None = None
        self.members: set[str] = set()

    # ----------------------------------------------------------------------------------------------------------
    # Who is there
    # ----------------------------------------------------------------------------------------------------------

    @initialize(with_identity=st.sets(st.integers(0, 2)), with_second=st.booleans(), share=st.booleans())
    def begin(self, with_identity: set[int], with_second: bool, share: bool) -> None:
        self.devices = [self.world.new_user(server=server) for server in (0, 0, 1)]
        for number, device in enumerate(self.devices):
            self.look(device.upload({"device_keys": device.keys()}))
            if number in with_identity:
                self.look(device.device_signing(device.user.identity()))
            device.catch_up()
        if with_second:
            self.log_in(0, "SECOND")
            self.upload_device_keys(3, "good")
        if share:
            for who in (0, 1):
                self.come_or_go(who)

    def device(self, who: int) -> Device:
        return self.devices[who % len(self.devices)]

    def look(self, seen: Seen) -> Seen:
        """Compare what both sides said."""
        rows = rows_of(seen)
        self.taken[seen.kind] += 1
        self.shown.update(rows)
        if rows & PARTING:
            self.retire({seen.viewer, *part_of(seen)})
        return seen

    def retire(self, users: set[str]) -> None:
        """Let users take no further part, and others come in their place."""
        for device in [device for device in self.devices if device.user.user_id in users]:
            self.devices.remove(device)
        for server in {0, 1} - {device.user.server for device in self.devices}:
            self.devices.append(self.world.new_user(server=server))

    @rule(who=WHO, device_id=st.sampled_from(["PHONE", "SECOND", "THIRD", "of the master key"]))
    def log_in(self, who: int, device_id: str) -> None:
        device = self.device(who)
        name = device.user.public_key("master") if device_id.startswith("of") else device_id
        if name != device_id and "master" not in device.user.stored:
            return  # then it is a device id like any other, and the key can never be uploaded
        seen, new = device.log_in(name)
        self.look(seen)
        if new is not None:  # an earlier token of the same device is good no more
            same = [old for old in self.devices if (old.user, old.device_id) == (new.user, new.device_id)]
            for old in same:
                self.devices.remove(old)
            new.catch_up()
            self.devices.append(new)

    @rule(who=WHO)
    def log_out(self, who: int) -> None:
        device = self.device(who)
        if sum(other.user is device.user for other in self.devices) > 1:
            self.look(device.log_out())
            self.devices.remove(device)

    @rule(who=WHO, name=st.sampled_from(["Phone", "Tablet", None, "x" * 101]))
    def rename(self, who: int, name: str | None) -> None:
        device = self.device(who)
        self.look(device.rename(device.device_id, name))

    @rule(who=WHO)
    def come_or_go(self, who: int) -> None:
        device = self.device(who)
        if device.user.server != 0:
            return
        if self.room is None:
            self.room = self.world.share_room(device)
            self.members = {device.user.user_id}
        elif device.user.user_id not in self.members:
            self.room.join(device)
            self.members.add(device.user.user_id)
        elif len(self.members) > 1:  # nobody comes back into a room that is empty
            self.room.leave(device)
            self.members.remove(device.user.user_id)

    # ----------------------------------------------------------------------------------------------------------
    # Uploading
    # ----------------------------------------------------------------------------------------------------------

    @rule(
        who=WHO,
        how=st.sampled_from(
            ["good", "good", "other", "spoiled", "unsigned", "cross-signed", "somebody's", "elsewhere", "incomplete"]
        ),
    )
    def upload_device_keys(self, who: int, how: str) -> None:
        device = self.device(who)
        keys = device.keys()
        changed: dict[str, Json] = {
            "good": keys,
            "other": device.keys(more=device.world.now),
            "spoiled": spoiled(keys),
            "unsigned": {**keys, "signatures": {}},
            "cross-signed": device.user.signed(keys, "self_signing"),
            "somebody's": {**keys, "user_id": "@somebody:example.org"},
            "elsewhere": {**keys, "device_id": "ELSEWHERE"},
            "incomplete": unsigned(keys),
        }
        if how == "cross-signed" and "self_signing" not in device.user.stored:
            return  # it would be a signature by no key
        self.look(device.upload({"device_keys": changed[how]}))

    @rule(
        who=WHO,
        names=KEY_NAMES,
        seed=SEED,
        how=st.sampled_from(["signed", "signed", "mixed", "plain", "no colon", "two colons", "no key"]),
    )
    def upload_one_time_keys(self, who: int, names: list[int], seed: str, how: str) -> None:
        device, keys = self.device(who), {}
        for place, name in enumerate(names):
            is_other = seed if how != "mixed" or place else ""
            keys.update(device.one_time_key(str(name), seed=is_other))
        first = str(names[0])
        strange: dict[str, Json] = {
            "plain": {f"curve25519:{first}": seed + first},
            "no colon": {first: "text"},
            "two colons": {f"a:b:{first}": "text"},
            "no key": {f"signed_curve25519:{first}": 7},
        }
        self.look(device.upload({"one_time_keys": strange.get(how, keys)}))

    @rule(who=WHO, names=KEY_NAMES, seed=SEED, is_turned=st.booleans())
    def upload_fallback_keys(self, who: int, names: list[int], seed: str, is_turned: bool) -> None:
        device, keys = self.device(who), {}
        for name in names[:2]:
            for key_id, key in device.one_time_key(f"F{name % 3}", fallback=True, seed=seed).items():
                keys[key_id] = dict(reversed(key.items())) if is_turned else key
        self.look(device.upload({"fallback_keys": keys}))

    @rule(who=WHO)
    def count(self, who: int) -> None:
        self.look(self.device(who).upload({}))

    # ----------------------------------------------------------------------------------------------------------
    # Asking
    # ----------------------------------------------------------------------------------------------------------

    @rule(
        who=WHO,
        whom=SOME,
        algorithm=st.sampled_from(["signed_curve25519", "signed_curve25519", "signed_curve25519", "curve25519", "x"]),
        more=st.sampled_from(["", "", "nobody here", "nobody there", "no device", "no user"]),
    )
    def claim(self, who: int, whom: list[int], algorithm: str, more: str) -> None:
        device, wanted = self.device(who), {}
        here, there = (synapse.server_name for synapse in self.world.synapses)
        strange: dict[str, Json] = {
            "nobody here": {f"@nobody:{here}": {"X": algorithm}},
            "nobody there": {f"@nobody:{there}": {"X": algorithm}},
            "no device": {device.user.user_id: {"NONE": algorithm}},
            "no user": {"nobody": {"X": algorithm}},
        }
        for other in map(self.device, whom):
            wanted.setdefault(other.user.user_id, {})[other.device_id] = algorithm
        self.look(device.claim({"one_time_keys": {**wanted, **strange.get(more, {})}}))

    @rule(
        who=WHO,
        whom=SOME,
        which=st.sampled_from(["all", "all", "all", "one", "none"]),
        more=st.sampled_from(["", "", "", "nobody here", "nobody there", "no user", "null", "object"]),
    )
    def query(self, who: int, whom: list[int], which: str, more: str) -> None:
        device = self.device(who)
        here, there = (synapse.server_name for synapse in self.world.synapses)
        asked: dict[str, Any] = {}
        for other in map(self.device, whom):
            asked[other.user.user_id] = {"all": [], "one": [other.device_id, "NONE"], "none": ["NONE"]}[which]
        strange: dict[str, Json] = {
            "nobody here": {f"@nobody:{here}": []},
            "nobody there": {f"@nobody:{there}": []},
            "no user": {"nobody": []},
            "null": {device.user.user_id: None},
            "object": {device.user.user_id: {"PHONE": True}},
        }
        self.look(device.query({"device_keys": {**asked, **strange.get(more, {})}}))

    @rule(who=WHO)
    def query_everybody(self, who: int) -> None:
        self.look(self.device(who).query_of(*self.devices))

    @rule(who=WHO)
    def ask_for_news(self, who: int) -> None:
        for seen in self.device(who).catch_up():
            self.look(seen)

    # ----------------------------------------------------------------------------------------------------------
    # Cross-signing
    # ----------------------------------------------------------------------------------------------------------

    @rule(
        who=WHO,
        roles=st.sampled_from([ROLES, ROLES, ROLES, ROLES[:1], ROLES[1:2], ROLES[2:], ()]),
        is_new=st.booleans(),
        proof=st.sampled_from(["none", "password", "password", "wrong"]),
        fault=st.sampled_from(["", "", "", "signature", "usage", "user"]),
    )
    def upload_identity(self, who: int, roles: tuple[str, ...], is_new: bool, proof: str, fault: str) -> None:
        device = self.device(who)
        generation, user = device.user.generation, device.user
        if is_new and "master" in user.stored:
            user.generation += 1
        body = user.identity(*roles) if roles else {}
        last = roles[-1] if roles else ""
        if fault and last:
            spoilt = {
                "signature": lambda: spoiled(user.key(last)) if last != "master" else user.key(last),
                "usage": lambda: user.key(last, usage=["something"]),
                "user": lambda: user.key(last, user_id="@somebody:example.org"),
            }
            body[f"{last}_key"] = spoilt[fault]()
        auth = {"none": None, "password": device.password, "wrong": {**device.password, "password": "wrong"}}[proof]
        seen = self.look(device.device_signing(body, auth=auth))
        if seen.here.status != 200 or user.public_key("master") != user.stored.get("master"):
            user.generation = generation

    @rule(
        who=WHO,
        whom=WHO,
        signer=st.sampled_from([*ROLES, "self_signing", "user_signing", "device"]),
        what=st.sampled_from(["device", "device", "master", "master", "self_signing", "user_signing"]),
        how=st.sampled_from(["good", "good", "good", "spoiled", "changed", "nobody's too", "itself too"]),
    )
    def sign(self, who: int, whom: int, signer: str, what: str, how: str) -> None:
        device, owner = self.device(who), self.device(whom)
        name = owner.device_id if what == "device" else owner.user.public_key(what)
        obj = unsigned(owner.user.stored.get(name, owner.keys()) if what == "device" else owner.user.key(what))
        if how == "changed":
            obj["changed"] = True
        names = [device.device_id if signer == "device" else signer]
        if how == "itself too" and owner.user is device.user and what in ("device", "master"):
            names.insert(0, name if what == "device" else what)
        signed = device.user.signed(obj, *names)
        if how == "spoiled":
            signed = spoiled(signed)
        if how == "nobody's too":
            by_user = signed["signatures"][device.user.user_id]
            signed["signatures"] = {device.user.user_id: {"ed25519:NOBODY": "A" * 86, **by_user}}
        self.look(device.sign(owner, name, signed))


def part_of(seen: Seen) -> list[str]:
    """Return the users whom a request is about."""
    inner = seen.request.values() if isinstance(seen.request, dict) else ()
    maps = [value for value in inner if isinstance(value, dict)]
    names = [*(seen.request if isinstance(seen.request, dict) else ()), *(name for value in maps for name in value)]
    return [name for name in names if name.startswith("@")]
