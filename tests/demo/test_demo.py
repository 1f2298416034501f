"""The demonstration: the story is told, the same each time, and every attack in it is one that would be noticed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import matrix_e2e_keys.demo
from matrix_e2e_keys import (
    LIBSODIUM,
    DeviceKeys,
    HttpResponse,
    JsonObject,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    Reason,
    RecipientPolicy,
    RoomKeyAction,
    SignatureCheck,
    check_claim,
    read_megolm_session_key,
)
from matrix_e2e_keys.demo import key_attacks, message_attacks, story
from matrix_e2e_keys.demo.attacks import Attack, Refusal, answered, first
from matrix_e2e_keys.demo.conversation import Conversation, olm_key, room_event
from matrix_e2e_keys.demo.ratchets import Account, InboundRatchet, OlmAccount, SampleAccount, load_vodozemac
from matrix_e2e_keys.demo.stage import ALICE, BOB, ROOM, CountingVerifier, Stage
from matrix_e2e_keys.demo.story import Story

DEMO = Path(matrix_e2e_keys.demo.__file__).parent
ON_KEYS = (*key_attacks.SERVERS_TO_CLIENTS, *key_attacks.CLIENTS_TO_SERVERS, *key_attacks.SERVERS_TO_SERVERS)
ON_MESSAGES = (*message_attacks.ON_MESSAGES_TO_DEVICES, *message_attacks.ON_MESSAGES_TO_ROOMS)
ALL: tuple[Attack[Any], ...] = (*ON_KEYS, *ON_MESSAGES)


def told(*, has_olm: bool = True) -> tuple[Story, list[str]]:
    """Tell the story to its end."""
    olm = pytest.importorskip("vodozemac") if has_olm else None
    it = Story(olm=olm, tick="+", cross="x")
    return it, list(it.lines())


@pytest.fixture(scope="module")
def whole() -> tuple[Story, list[str]]:
    return told()


@pytest.fixture(scope="module")
def without_olm() -> tuple[Story, list[str]]:
    return told(has_olm=False)


@pytest.fixture
def stage(without_olm: tuple[Story, list[str]]) -> Stage:
    """The stage after the story."""
    return without_olm[0]._stage


@pytest.fixture
def talk(whole: tuple[Story, list[str]]) -> Conversation:
    """The conversation after the story."""
    conversation = whole[0]._talk
    assert conversation is not None
    return conversation


class TestText:
    def test_it_fits_on_a_screen_and_into_any_encoding(self, whole: tuple[Story, list[str]]) -> None:
        _, lines = whole
        assert 60 <= len(lines) <= 90
        assert max(map(len, lines)) <= 100
        assert all(line.isascii() and line == line.rstrip() for line in lines)

    def test_it_is_the_same_each_time(self, whole: tuple[Story, list[str]]) -> None:
        assert told()[1] == whole[1]

    def test_it_has_seven_chapters(self, whole: tuple[Story, list[str]]) -> None:
        headings = [line for line in whole[1] if line[:1].isdigit()]
        assert [heading.split(".")[0] for heading in headings] == ["1", "2", "3", "4", "5", "6", "7"]

    def test_trust_grows_as_users_compare_keys(self, whole: tuple[Story, list[str]]) -> None:
        text = "\n".join(whole[1])
        places = [
            text.index(words)
            for words in (
                "LAPTOP is not-cross-signed",
                "LAPTOP is cross-signed now; Bob's identity is pinned",
                "PHONE signs his: verified",
                "TABLET gets a room key from @alice:a.example on PHONE, verified",
                "LAPTOP gets a room key from @alice:a.example on PHONE, unverified",
                "LAPTOP looks at its room key again: from @alice:a.example on PHONE, verified",
                'LAPTOP reads message 0, new: "Shall we have tea?" from @alice:a.example on PHONE, verified',
                "LAPTOP scrolls back, and reads message 0 once more, same-event",
            )
        ]
        assert places == sorted(places)

    def test_what_went_over_the_federation(self, whole: tuple[Story, list[str]]) -> None:
        asked = [(it.server_name, it.request.path) for it in whole[0]._stage.carried]
        assert asked[:2] == [
            ("b.example", "/_matrix/federation/v1/user/keys/query"),
            ("b.example", "/_matrix/federation/v1/user/keys/claim"),
        ]
        assert all(it.authorization for it in whole[0]._stage.carried)

    def test_the_sum(self, whole: tuple[Story, list[str]]) -> None:
        it, lines = whole
        attacks = [line for line in lines if line.startswith("   x ")]
        assert len(attacks) == len(ALL) == it.refused
        assert lines[-1].startswith("In all: ")
        assert lines[-1].endswith(f" signatures checked, 10 messages, {len(attacks)} attacks refused.")

    def test_without_vodozemac_the_messages_are_left_out(self, without_olm: tuple[Story, list[str]]) -> None:
        it, lines = without_olm
        assert sum('pip install "matrix-e2e-keys[demo]"' in line for line in lines) == 3
        assert "vodozemac is not installed" in lines[2]
        assert it.refused == len(ON_KEYS)
        assert it.succeeded == 0
        assert lines[-1].endswith(f" 0 messages, {len(ON_KEYS)} attacks refused.")
        assert not [line for line in lines if "tea" in line]
        assert max(map(len, lines)) <= 100

    def test_no_key_is_shown(self, whole: tuple[Story, list[str]]) -> None:
        assert not [word for line in whole[1] for word in line.split() if len(word) >= 43 and "/" not in word]


class TestAttacks:
    @pytest.mark.parametrize("attack", ON_KEYS, ids=lambda attack: attack.what)
    def test_on_keys(self, attack: Attack[Stage], stage: Stage) -> None:
        """Attacks 7, 10, 25, 26, 33 to 35, 43, 45, 46, 51 and 53, as they are told."""
        assert attack.is_refused(attack.attempt(stage))

    @pytest.mark.parametrize("attack", ON_MESSAGES, ids=lambda attack: attack.what)
    def test_on_messages(self, attack: Attack[Conversation], talk: Conversation) -> None:
        """Attacks 56, 57, 59 and 61, as they are told."""
        assert attack.is_refused(attack.attempt(talk))

    @pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.what)
    def test_each_counts_by_reason_and_place(self, attack: Attack[Any]) -> None:
        as_expected = Refusal(reason=attack.reason, path=attack.path)
        assert attack.is_refused(as_expected)
        assert not attack.is_refused(None)
        assert not attack.is_refused(evolve(as_expected, reason="wrong-type"))
        assert attack.path == "" or not attack.is_refused(evolve(as_expected, path="/elsewhere"))

    def test_each_is_another_one(self) -> None:
        assert len({attack.what for attack in ALL}) == len(ALL)
        assert len({attack.carry_out for attack in ALL}) == len(ALL)


class TestTheSameWithoutAnAttacker:
    """What the attacks change is accepted if it is not changed: they are refused for what they change."""

    def test_a_query(self, stage: Stage) -> None:
        phone = stage.phone
        request = KeysQueryRequest.for_users([BOB])
        result = phone.machine.users.judge(request, KeysQueryResponse.from_bytes(phone.send(request).body))
        assert (result.devices.rejected, result.identities.rejected) == ((), ())
        assert result.changes == ()
        assert list(result.devices.accepted[BOB]) == ["LAPTOP"]

    def test_a_claim(self, stage: Stage) -> None:
        phone = stage.phone
        request = KeysClaimRequest.for_devices({BOB: ["LAPTOP"]})
        response = KeysClaimResponse.from_bytes(phone.send(request).body)
        result = check_claim(request, response, devices={BOB: phone.knows(BOB).devices})
        assert result.keys.rejected == ()
        assert list(result.keys.accepted[BOB]) == ["LAPTOP"]
        assert phone.machine.sessions.wanted == frozenset()  # it has opened those it wanted

    def test_a_message_to_a_device(self, talk: Conversation) -> None:
        content = talk.phone.write(talk.laptop.device.own, "m.dummy", {})
        event = talk.laptop.read(message_attacks._delivered(ALICE, content)).require()
        assert (event.type, event.sender.user_id) == ("m.dummy", ALICE)

    def test_a_room_key(self, talk: Conversation) -> None:
        key = talk.writer.room_key
        event = message_attacks._read(talk.laptop, talk.phone, key.event_type, key.to_json())
        held = dict(talk.readers["LAPTOP"].sessions)
        decision = talk.readers["LAPTOP"].take_key(event)
        assert (decision.action, decision.reason) == (RoomKeyAction.KEEP, Reason.LATER_INDEX)
        assert talk.readers["LAPTOP"].sessions == held
        assert talk.readers["TABLET"].sessions.keys() == held.keys() == {(ROOM, talk.writer.ratchet.session_id)}

    def test_everybody_has_the_room_key(self, talk: Conversation) -> None:
        machine = talk.phone.device.machine
        recipients = machine.devices_for([ALICE, BOB], RecipientPolicy.CROSS_SIGNED_ONLY)
        assert [device.device_id for of in recipients.devices.values() for device in of.values()] == [
            "TABLET",
            "LAPTOP",
        ]
        assert talk.writer.session.needs_key(recipients) == ()

    def test_a_message_to_the_room(self, talk: Conversation) -> None:
        event = room_event(ALICE, talk.writer.say("Yes"), event_id="$fine")
        assert talk.readers["TABLET"].read(event).require().content["body"] == "Yes"
        assert talk.say("Yes").event_id != talk.say("Yes").event_id

    def test_a_forwarded_key(self, talk: Conversation) -> None:
        """It opens all that the key opens which was sent."""
        ((_, ratchet),) = talk.readers["LAPTOP"].sessions.values()
        forwarded = read_megolm_session_key(ratchet.export())
        sent = read_megolm_session_key(talk.writer.ratchet.session_key)
        assert forwarded.session_id == sent.session_id
        assert forwarded.first_index <= sent.first_index == talk.writer.ratchet.message_index
        later = InboundRatchet.of(talk.olm, sent.text)
        assert read_megolm_session_key(later.export()).first_index == sent.first_index


@pytest.fixture
def forged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let devices and servers take every signature for good."""

    def yes(_self: CountingVerifier, checks: list[SignatureCheck], /) -> list[bool]:
        return [True for _ in LIBSODIUM.verify_many(checks)]

    monkeypatch.setattr(CountingVerifier, "verify_many", yes)


class TestAnAttackThatIsNotRefused:
    def test_if_signatures_are_not_checked(self, forged: None) -> None:
        it, lines = told(has_olm=False)
        loud = [line for line in lines if line.startswith("   !!! ")]
        assert it.succeeded == len(loud) >= 3
        for what in (
            "swaps a key of LAPTOP",
            "swaps a one-time key",
            "calls it a fallback key, which may be used twice",
        ):
            assert f"   !!! {what}: THIS SHOULD BE REFUSED for invalid-signature, and is not refused at all" in loud
        assert lines[-1].endswith(f" {len(ON_KEYS) - len(loud)} attacks refused, {len(loud)} NOT REFUSED.")

    def test_if_another_reason_is_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = evolve(ON_KEYS[0], carry_out=lambda _stage: Refusal(reason="wrong-type", path="/here"))
        monkeypatch.setattr(story, "SERVERS_TO_CLIENTS", (one,))
        it, lines = told(has_olm=False)
        assert it.succeeded == 1
        assert any(line.endswith("for invalid-signature, and is refused for wrong-type at '/here'") for line in lines)

    @pytest.mark.parametrize(
        ("table", "scene"),
        [
            ("SERVERS_TO_CLIENTS", Stage),
            ("CLIENTS_TO_SERVERS", Stage),
            ("SERVERS_TO_SERVERS", Stage),
            ("ON_MESSAGES_TO_DEVICES", Conversation),
            ("ON_MESSAGES_TO_ROOMS", Conversation),
        ],
    )
    def test_is_told_of_in_each_chapter(self, table: str, scene: type[object], monkeypatch: pytest.MonkeyPatch) -> None:
        scenes: list[object] = []
        succeeds: Attack[Any] = Attack(what="wins", how="", reason="none", carry_out=scenes.append)
        monkeypatch.setattr(story, table, (succeeds,))
        it, lines = told()
        assert it.succeeded == 1
        assert "   !!! wins: THIS SHOULD BE REFUSED for none, and is not refused at all" in lines
        assert [type(it) for it in scenes] == [scene]


class TestPieces:
    def test_an_answer_that_refuses_is_an_error(self) -> None:
        refuses: Attack[None] = Attack(
            what="asks",
            how="",
            reason="403 M_FORBIDDEN",
            carry_out=lambda _: answered(HttpResponse(status=403, body=b'{"errcode": "M_FORBIDDEN", "error": ""}')),
        )
        assert refuses.attempt(None) == Refusal(reason="403 M_FORBIDDEN")
        assert evolve(refuses, carry_out=lambda _: answered(HttpResponse(status=200, body=b"{}"))).attempt(None) is None
        assert evolve(refuses, carry_out=lambda _: answered(None)).attempt(None) is None

    def test_other_errors_are_what_they_say(self) -> None:
        def fail(_: None) -> None:
            raise LocalProtocolError(Reason.WRONG_TYPE, "no", path="/x")

        refused = Attack(what="", how="", reason="wrong-type", path="/x", carry_out=fail).attempt(None)
        assert refused is not None
        assert (refused.reason, refused.path) == (Reason.WRONG_TYPE, "/x")

    def test_the_first_refusal(self) -> None:
        assert first([]) is None
        assert first([Refusal(reason="a"), Refusal(reason="b")]) == Refusal(reason="a")

    def test_a_device_without_an_olm_key(self) -> None:
        account = SampleAccount(ALICE, "OLD")
        keys = DeviceKeys.build(
            user_id=ALICE, device_id="OLD", curve25519_key=account.identity_key, signer=account.signer
        ).to_json()
        signing_key: JsonObject = {"ed25519:OLD": account.signer.public_key.to_base64()}
        keys.update(keys=signing_key, signatures={})
        signed = matrix_e2e_keys.sign_json(keys, entity=ALICE, signer=account.signer)
        with pytest.raises(LocalProtocolError, match="cannot be written to"):
            olm_key(DeviceKeys.from_json(signed).verify())

    def test_there_is_no_master_key_before_there_is_an_identity(self) -> None:
        with pytest.raises(LocalProtocolError, match="no identity yet"):
            Stage(SampleAccount).phone.master_key()

    @pytest.mark.parametrize("has_olm", [False, True])
    def test_accounts_give_no_key_twice(self, has_olm: bool) -> None:
        olm = pytest.importorskip("vodozemac") if has_olm else None
        account: Account = SampleAccount(ALICE, "PHONE") if olm is None else OlmAccount(olm, "PHONE")
        one_time_keys = [account.make_one_time_keys(2), account.make_one_time_keys(1)]
        assert [len(keys) for keys in one_time_keys] == [2, 1]
        _, fallback_key = account.make_fallback_key()
        assert len({fallback_key, *(key for keys in one_time_keys for key in keys.values())}) == 4


def modules_imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def run(prelude: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; {prelude}; from matrix_e2e_keys.cli import main; sys.exit(main(['demo']))"
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        check=False,
        timeout=60,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1", **environment},
    )


class TestImports:
    def test_one_module_imports_vodozemac(self) -> None:
        assert [path.name for path in DEMO.glob("*.py") if "vodozemac" in modules_imported(path)] == ["ratchets.py"]

    def test_it_does_no_io_and_needs_nothing_of_the_tests(self) -> None:
        names = {name for path in DEMO.glob("*.py") for name in modules_imported(path)}
        assert not names & {"os", "sys", "io", "time", "random", "secrets", "pathlib", "hypothesis"}
        assert {name for name in names if ".testing" in name} == {"matrix_e2e_keys.testing.samples"}

    def test_vodozemac_is_found_if_it_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vodozemac = pytest.importorskip("vodozemac")
        assert load_vodozemac() is vodozemac
        monkeypatch.setitem(sys.modules, "vodozemac", None)
        assert load_vodozemac() is None

    def test_without_vodozemac_and_hypothesis(self, without_olm: tuple[Story, list[str]]) -> None:
        result = run("sys.modules.update(dict.fromkeys(['vodozemac', 'hypothesis']))")
        assert (result.returncode, result.stderr) == (0, "")
        plain = result.stdout.replace("\N{CHECK MARK}", "+").replace("\N{BALLOT X}", "x")
        assert plain.splitlines() == without_olm[1]

    def test_order_of_sets_does_not_matter(self) -> None:
        pytest.importorskip("vodozemac")
        outputs = {run(PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
        assert len(outputs) == 1
