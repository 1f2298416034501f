"""The open parts of messages and session keys, against vodozemac: what it makes is read, and read as it reads it."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import vodozemac
from attrs import evolve

from events.odd_values import only_own_errors, refusal
from events.vodozemac_world import base64, curve25519_of, olm_talk, raw, session_id_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError
from matrix_e2e_keys.events.olm_formats import (
    MegolmSessionKey,
    OlmMessageType,
    PreKeyHeader,
    megolm_message_index,
    olm_body,
    read_megolm_session_key,
    read_pre_key_header,
)
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key

R = Reason
KEY = [sample_curve25519_key(name).raw for name in "abcd"]
MAC = b"M" * 8
SIGNATURE = b"S" * 64

RATCHET, INDEX, TEXT = b"\x0a\x20" + KEY[0], b"\x10\x05", b"\x22\x10" + b"c" * 16
NORMAL = b"\x03" + RATCHET + INDEX + TEXT + MAC
ONE_TIME, BASE, IDENTITY = b"\x0a\x20" + KEY[1], b"\x12\x20" + KEY[2], b"\x1a\x20" + KEY[3]
INNER = b"\x22" + bytes([len(NORMAL)]) + NORMAL
PRE_KEY = b"\x03" + ONE_TIME + BASE + IDENTITY + INNER
GROUP_INDEX, GROUP_TEXT = b"\x08\x07", b"\x12\x10" + b"c" * 16
MEGOLM = b"\x03" + GROUP_INDEX + GROUP_TEXT + MAC + SIGNATURE


def of_pre_key(data: bytes) -> object:
    return read_pre_key_header(base64(data))


def of_normal(data: bytes) -> object:
    return olm_body(base64(data), OlmMessageType.NORMAL)


def of_megolm(data: bytes) -> int:
    return megolm_message_index(base64(data))


def pre_key_with(inner: bytes) -> bytes:
    return b"\x03" + ONE_TIME + BASE + IDENTITY + b"\x22" + bytes([len(inner)]) + inner


def normal_in_pre_key(data: bytes) -> object:
    """A normal message has no reader of its own: it is read inside of a pre-key message."""
    return of_pre_key(pre_key_with(data))


def group_session() -> vodozemac.GroupSession:
    return vodozemac.GroupSession()


class TestOlmMessages:
    def test_a_pre_key_message_says_which_keys_it_was_made_with(self) -> None:
        talk = olm_talk()
        header = read_pre_key_header(talk.pre_key.body)
        assert header.one_time_key == talk.one_time_key
        assert header.identity_key == curve25519_of(talk.alice)
        keys = (header.identity_key.raw, header.base_key.raw, header.one_time_key.raw)
        assert session_id_of(*keys) == talk.session.session_id
        assert session_id_of(*keys) == vodozemac.PreKeyMessage.from_base64(talk.pre_key.body).session_id()

    def test_messages_put_together_by_hand_are_read(self) -> None:
        header = of_pre_key(PRE_KEY)
        assert isinstance(header, PreKeyHeader)
        assert [key.raw for key in (header.one_time_key, header.base_key, header.identity_key)] == KEY[1:]
        assert of_normal(NORMAL) == {0x0A: KEY[0], 0x10: 5, 0x22: b"c" * 16}

    def test_a_message_of_the_other_type_is_refused(self) -> None:
        """Attack 60."""
        talk = olm_talk()
        with pytest.raises(RemoteProtocolError):
            read_pre_key_header(talk.normal.body)
        assert _refused_inside(raw(talk.pre_key.body), OlmMessageType.NORMAL)
        assert _refused_inside(raw(group_session().encrypt(b"x").to_base64()), OlmMessageType.NORMAL)
        assert _refused_inside(raw(group_session().encrypt(b"x").to_base64()), OlmMessageType.PRE_KEY)

    def test_every_truncation_is_refused(self) -> None:
        """Attack 60."""
        whole = raw(olm_talk().pre_key.body)
        for length in range(len(whole)):
            with pytest.raises(RemoteProtocolError):
                of_pre_key(whole[:length])
        normal = raw(olm_talk().normal.body)
        for length in range(len(normal) - 9):  # what is missing at the end is taken from the code
            with pytest.raises(RemoteProtocolError):
                normal_in_pre_key(normal[:length])

    def test_every_other_version_is_refused(self) -> None:
        """Attack 60."""
        for version in set(range(256)) - {3}:
            for make in (
                lambda version=version: of_pre_key(bytes([version]) + PRE_KEY[1:]),
                lambda version=version: normal_in_pre_key(bytes([version]) + NORMAL[1:]),
                lambda version=version: of_megolm(bytes([version]) + MEGOLM[1:]),
            ):
                assert refusal(make, RemoteProtocolError) == ("", R.INVALID_VALUE)

    @pytest.mark.parametrize("left_out", [ONE_TIME, BASE, IDENTITY, INNER])
    def test_a_pre_key_message_without_one_of_its_fields_is_refused(self, left_out: bytes) -> None:
        parts = [part for part in (ONE_TIME, BASE, IDENTITY, INNER) if part != left_out]
        assert refusal(lambda: of_pre_key(b"\x03" + b"".join(parts)), RemoteProtocolError) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize("left_out", [RATCHET, INDEX, TEXT])
    def test_a_normal_message_without_one_of_its_fields_is_refused(self, left_out: bytes) -> None:
        data = b"\x03" + b"".join([part for part in (RATCHET, INDEX, TEXT) if part != left_out]) + MAC
        assert refusal(lambda: normal_in_pre_key(data), RemoteProtocolError) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize("twice", [ONE_TIME, BASE, IDENTITY, INNER])
    def test_a_pre_key_message_with_a_field_twice_is_refused(self, twice: bytes) -> None:
        """Attack 60: two readers could take different ones."""
        assert refusal(lambda: of_pre_key(PRE_KEY + twice), RemoteProtocolError) == ("", R.DUPLICATE_MEMBER)

    @pytest.mark.parametrize("twice", [RATCHET, INDEX, TEXT])
    def test_a_normal_message_with_a_field_twice_is_refused(self, twice: bytes) -> None:
        data = b"\x03" + RATCHET + INDEX + TEXT + twice + MAC
        assert refusal(lambda: normal_in_pre_key(data), RemoteProtocolError) == ("", R.DUPLICATE_MEMBER)

    def test_the_order_of_fields_does_not_matter(self) -> None:
        assert of_pre_key(b"\x03" + INNER + IDENTITY + BASE + ONE_TIME) == of_pre_key(PRE_KEY)

    @pytest.mark.parametrize(
        "unknown", [b"\x2a\x02xy", b"\x2a\x00", b"\x30\x01", b"\xb0\x02\xff\xff\x03", b"\x2a\x01x\x2a\x01y"]
    )
    def test_fields_that_are_not_recognized_are_skipped(self, unknown: bytes) -> None:
        assert of_pre_key(PRE_KEY + unknown) == of_pre_key(PRE_KEY)
        assert of_pre_key(b"\x03" + unknown + PRE_KEY[1:]) == of_pre_key(PRE_KEY)
        assert of_normal(b"\x03" + unknown + NORMAL[1:]) == of_normal(NORMAL)
        assert of_megolm(b"\x03" + unknown + MEGOLM[1:]) == 7

    @pytest.mark.parametrize("kind", [1, 3, 4, 5, 6, 7])
    def test_fields_of_an_unknown_kind_are_refused(self, kind: int) -> None:
        data = PRE_KEY + bytes([0x28 | kind, 0])
        assert refusal(lambda: of_pre_key(data), RemoteProtocolError) == ("", R.INVALID_VALUE)

    @pytest.mark.parametrize(
        ("field", "reason"),
        [
            (b"\x0a\x1f" + KEY[1][:31], R.WRONG_LENGTH),
            (b"\x0a\x21" + KEY[1] + b"x", R.WRONG_LENGTH),
            (b"\x0a\x00", R.WRONG_LENGTH),
            (b"\x0a\x20" + bytes(32), R.WEAK_KEY),
            (b"\x0a\x20" + b"\xff" * 32, R.NON_CANONICAL_KEY),
        ],
    )
    @pytest.mark.parametrize("tag", [0x0A, 0x12, 0x1A])
    def test_what_is_no_key_is_refused_where_a_key_should_stand(self, tag: int, field: bytes, reason: Reason) -> None:
        fields = {0x0A: ONE_TIME, 0x12: BASE, 0x1A: IDENTITY} | {tag: bytes([tag]) + field[1:]}
        data = b"\x03" + b"".join(fields.values()) + INNER
        with pytest.raises(RemoteProtocolError) as caught:
            of_pre_key(data)
        assert caught.value.reason is reason
        name = {0x0A: "the one-time key", 0x12: "the base key", 0x1A: "the identity key"}[tag]
        assert caught.value.detail.startswith(name)

    @pytest.mark.parametrize("size", [0, 31, 33])
    def test_a_ratchet_key_of_another_size_is_refused(self, size: int) -> None:
        data = b"\x03\x0a" + bytes([size]) + b"k" * size + INDEX + TEXT + MAC
        assert refusal(lambda: normal_in_pre_key(data), RemoteProtocolError) == ("", R.WRONG_LENGTH)

    @pytest.mark.parametrize("count", [0, 1, 7, 8])
    def test_a_message_without_room_for_its_code_is_refused(self, count: int) -> None:
        assert refusal(lambda: normal_in_pre_key(b"\x03" * count), RemoteProtocolError) == ("", R.WRONG_LENGTH)

    def test_a_text_that_is_longer_than_the_message_is_refused(self) -> None:
        for length in (b"\x11", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"):
            data = b"\x03" + RATCHET + INDEX + b"\x22" + length + b"c" * 16 + MAC
            assert refusal(lambda data=data: normal_in_pre_key(data), RemoteProtocolError) == ("", R.WRONG_LENGTH)


def _refused_inside(data: bytes, message_type: OlmMessageType) -> bool:
    with pytest.raises(Refusal):
        olm_body(base64(data), message_type)
    return True


class TestMegolmMessages:
    def test_the_index_is_the_one_that_vodozemac_reads(self) -> None:
        session = group_session()
        inbound = vodozemac.InboundGroupSession(session.session_key)
        for expected in range(200):
            message = session.encrypt(b"x" * expected)
            assert megolm_message_index(message.to_base64()) == expected
            if expected in (0, 127, 128):
                assert inbound.decrypt(message).message_index == expected

    @pytest.mark.parametrize("index", [0, 1, 127, 128, 2**31, 2**32 - 1])
    def test_every_index_of_32_bits_is_read(self, index: int) -> None:
        data = b"\x03\x08" + varint(index) + GROUP_TEXT + MAC + SIGNATURE
        assert of_megolm(data) == index
        assert vodozemac.MegolmMessage.from_bytes(data).message_index() == index

    @pytest.mark.parametrize("index", [2**32, 2**32 + 7, 2**63, 2**64 - 1])
    def test_a_giant_index_is_refused(self, index: int) -> None:
        """Another reader could take the lower 32 bits only."""
        data = b"\x03\x08" + varint(index) + GROUP_TEXT + MAC + SIGNATURE
        assert refusal(lambda: of_megolm(data), RemoteProtocolError) == ("", R.INVALID_VALUE)

    @pytest.mark.parametrize(
        "encoded", [b"\x07", b"\x87\x00", b"\x87\x80\x00", b"\x87" + b"\x80" * 8 + b"\x00"], ids=bytes.hex
    )
    def test_an_integer_in_more_bytes_than_it_needs_is_the_same_integer(self, encoded: bytes) -> None:
        data = b"\x03\x08" + encoded + GROUP_TEXT + MAC + SIGNATURE
        assert of_megolm(data) == 7 == vodozemac.MegolmMessage.from_bytes(data).message_index()

    @pytest.mark.parametrize(
        "encoded",
        [b"\x87" + b"\x80" * 9 + b"\x00", b"\x80" * 9 + b"\x02", b"\xff" * 9 + b"\x7f", b"\xff" * 30, b"\x80" * 500],
        ids=lambda encoded: f"{len(encoded)} {encoded[-1]:x}",
    )
    @pytest.mark.parametrize("place", ["tag", "length", "index", "unknown"])
    def test_an_integer_of_more_than_64_bits_is_refused(self, encoded: bytes, place: str) -> None:
        fields = {
            "tag": encoded + b"\x00" + GROUP_INDEX + GROUP_TEXT,
            "length": GROUP_INDEX + b"\x12" + encoded + b"c" * 16,
            "index": b"\x08" + encoded + GROUP_TEXT,
            "unknown": b"\x30" + encoded + GROUP_INDEX + GROUP_TEXT,
        }
        data = b"\x03" + fields[place] + MAC + SIGNATURE
        assert refusal(lambda: of_megolm(data), RemoteProtocolError) == ("", R.INVALID_VALUE)
        with pytest.raises(vodozemac.DecodeException):
            vodozemac.MegolmMessage.from_bytes(data)

    def test_a_tag_in_more_bytes_than_it_needs_is_the_same_tag(self) -> None:
        assert of_megolm(b"\x03\x88\x00\x07" + GROUP_TEXT + MAC + SIGNATURE) == 7
        data = b"\x03\x88\x00\x07" + GROUP_INDEX + GROUP_TEXT + MAC + SIGNATURE
        assert refusal(lambda: of_megolm(data), RemoteProtocolError) == ("", R.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"\x03" + GROUP_TEXT + MAC + SIGNATURE, R.MISSING_MEMBER),
            (b"\x03" + GROUP_INDEX + MAC + SIGNATURE, R.MISSING_MEMBER),
            (b"\x03" + GROUP_INDEX * 2 + GROUP_TEXT + MAC + SIGNATURE, R.DUPLICATE_MEMBER),
            (b"\x03" + GROUP_INDEX + GROUP_TEXT * 2 + MAC + SIGNATURE, R.DUPLICATE_MEMBER),
            (b"\x03" * 72, R.WRONG_LENGTH),
            (b"\x03" + GROUP_INDEX + b"\x12" + MAC + SIGNATURE, R.WRONG_LENGTH),
            (b"\x03\x88" + MAC + SIGNATURE, R.WRONG_LENGTH),
        ],
    )
    def test_what_is_no_message_is_refused(self, data: bytes, reason: Reason) -> None:
        assert refusal(lambda: of_megolm(data), RemoteProtocolError) == ("", reason)

    def test_every_truncation_is_refused_or_takes_its_end_from_the_code(self) -> None:
        """Attack 60. What is left is no message to vodozemac, or has the index that it has to vodozemac."""
        whole = raw(group_session().encrypt(b"x" * 20).to_base64())
        for length in range(len(whole)):
            agree(whole[:length])
        assert not accepted(whole[:-73])

    def test_no_flipped_bit_is_read_otherwise_than_vodozemac_reads_it(self) -> None:
        whole = raw(group_session().encrypt(b"x" * 20).to_base64())
        accepted_ones = 0
        for place in range(len(whole) - 60):
            for bit in range(8):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << bit
                accepted_ones += agree(bytes(flipped))
        assert accepted_ones > 100


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def accepted(data: bytes) -> int | None:
    with contextlib.suppress(RemoteProtocolError):
        return of_megolm(data)
    return None


def agree(data: bytes) -> bool:
    """Whether the message is read; then vodozemac reads the same index, if it reads the message at all."""
    index = accepted(data)
    if index is not None:
        with contextlib.suppress(vodozemac.DecodeException):
            assert vodozemac.MegolmMessage.from_bytes(data).message_index() == index
    return index is not None


class TestSessionKeys:
    def test_a_key_to_share_says_what_vodozemac_says(self) -> None:
        session = group_session()
        for index in (0, 1, 300):
            while session.message_index < index:
                session.encrypt(b"x")
            text = session.session_key.to_base64()
            inbound = vodozemac.InboundGroupSession(session.session_key)
            key = read_megolm_session_key(text)
            assert key.session_id == session.session_id == inbound.session_id
            assert key.first_index == index == inbound.first_known_index
            assert key.is_signed
            assert key.text == text

    def test_an_exported_key_says_what_vodozemac_says(self) -> None:
        session = group_session()
        inbound = vodozemac.InboundGroupSession(session.session_key)
        for index in (0, 5, 70_000):
            exported = inbound.export_at(index)
            imported = vodozemac.InboundGroupSession.import_session(exported)
            key = read_megolm_session_key(exported.to_base64())
            assert key.session_id == session.session_id == imported.session_id
            assert key.first_index == index == imported.first_known_index
            assert not key.is_signed
            assert key.text == exported.to_base64()

    def test_an_exported_key_has_a_point_as_its_signing_key(self) -> None:
        """What a ratchet takes is read, and what is read a ratchet takes: nothing is signed that could show it."""
        exported = vodozemac.InboundGroupSession(group_session().session_key).export_at(0)
        assert exported is not None
        data = raw(exported.to_base64())
        points = 0
        for number in range(2, 34):
            text = base64(data[:-32] + bytes([number]) + bytes(31))
            try:
                vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(text))
            except vodozemac.SessionKeyDecodeException:
                read = lambda text=text: read_megolm_session_key(text)  # noqa: E731
                assert refusal(read, RemoteProtocolError) == ("", R.NON_CANONICAL_KEY)
            else:
                points += 1
                assert read_megolm_session_key(text).first_index == 0
        assert 5 < points < 27

    def test_padding_does_not_matter(self) -> None:
        text = group_session().session_key.to_base64()
        assert read_megolm_session_key(text + "=" * (-len(text) % 4)) == read_megolm_session_key(text)

    def test_a_broken_signature_is_refused_wherever_it_broke(self) -> None:
        whole = raw(group_session().session_key.to_base64())
        for place in [*range(1, 229, 3), 5, 133, 164, 165, 228]:
            broken = bytearray(whole)
            broken[place] ^= 1
            with pytest.raises(RemoteProtocolError):
                read_megolm_session_key(base64(bytes(broken)))
        broken = bytearray(whole)
        broken[2] ^= 1
        make = lambda: read_megolm_session_key(base64(bytes(broken)))  # noqa: E731
        assert refusal(make, RemoteProtocolError) == ("", R.INVALID_SIGNATURE)

    def test_a_signature_by_another_key_is_refused(self) -> None:
        whole = raw(group_session().session_key.to_base64())
        forged = whole[:165] + sample_secret_key("mallory").sign(whole[:165]).raw
        make = lambda: read_megolm_session_key(base64(forged))  # noqa: E731
        assert refusal(make, RemoteProtocolError) == ("", R.INVALID_SIGNATURE)

    @pytest.mark.parametrize("version", [0, 1, 3, 255])
    def test_a_key_to_share_of_another_version_is_refused(self, version: int) -> None:
        whole = raw(group_session().session_key.to_base64())
        make = lambda: read_megolm_session_key(base64(bytes([version]) + whole[1:]))  # noqa: E731
        assert refusal(make, RemoteProtocolError) == ("", R.INVALID_VALUE)

    @pytest.mark.parametrize("version", [0, 2, 3, 255])
    def test_an_exported_key_of_another_version_is_refused(self, version: int) -> None:
        exported = vodozemac.InboundGroupSession(group_session().session_key).export_at(0)
        assert exported is not None
        data = bytes([version]) + raw(exported.to_base64())[1:]
        make = lambda: read_megolm_session_key(base64(data))  # noqa: E731
        assert refusal(make, RemoteProtocolError) == ("", R.INVALID_VALUE)

    def test_every_other_length_is_refused(self) -> None:
        shared = raw(group_session().session_key.to_base64())
        for version in (1, 2):
            whole = bytes([version]) + shared[1:] + b"x"
            for length in set(range(1, 231)) - {165, 229}:
                make = lambda data=whole[:length]: read_megolm_session_key(base64(data))  # noqa: E731
                assert refusal(make, RemoteProtocolError) == ("", R.WRONG_LENGTH)

    @pytest.mark.parametrize(
        ("key", "reason"),
        [(bytes(32), R.WEAK_KEY), (b"\x01" + bytes(31), R.WEAK_KEY), (b"\xff" * 32, R.NON_CANONICAL_KEY)],
    )
    def test_a_weak_signing_key_is_refused(self, key: bytes, reason: Reason) -> None:
        """One signature would be good for every session key."""
        for data in (b"\x02" + bytes(132) + key + bytes(64), b"\x01" + bytes(132) + key):
            make = lambda data=data: read_megolm_session_key(base64(data))  # noqa: E731
            assert refusal(make, RemoteProtocolError) == ("", reason)

    def test_only_the_check_makes_one(self) -> None:
        key = read_megolm_session_key(group_session().session_key.to_base64())
        makers: list[Callable[[], Any]] = [
            lambda: MegolmSessionKey(key.session_id, 0, True, key.text),
            lambda: MegolmSessionKey(session_id="x", first_index=0, is_signed=True, text="x"),
            lambda: evolve(key, is_signed=True),
        ]
        for make in makers:
            with pytest.raises(LocalProtocolError):
                make()
        assert copy.deepcopy(key) == key
        assert pickle.loads(pickle.dumps(key)) == key

    def test_the_secret_is_shown_nowhere(self) -> None:
        session = group_session()
        text = session.session_key.to_base64()
        key = read_megolm_session_key(text)
        for shown in (repr(key), str(key), f"{key}"):
            assert session.session_id in shown
            assert not leaks(shown, text)
        assert repr(key).endswith("from 0, signed>")
        exported = vodozemac.InboundGroupSession(session.session_key).export_at(3)
        assert exported is not None
        assert repr(read_megolm_session_key(exported.to_base64())).endswith("from 3, not signed>")
        damaged = [text[:-1], text[:-4], text + "!", "B" + text[1:], text[:100], text + " ", text * 2]
        for wrong in [*damaged, text[:30] + ("A" if text[30] != "A" else "B") + text[31:]]:
            with pytest.raises(RemoteProtocolError) as caught:
                read_megolm_session_key(wrong)
            for shown in (str(caught.value), repr(caught.value), caught.value.path, caught.value.detail):
                assert not leaks(shown, text)
            assert caught.value.__cause__ is None


def leaks(shown: str, secret: str) -> bool:
    """Whether eight characters of a session key's ratchet stand somewhere."""
    ratchet = secret[8:176]
    return any(ratchet[place : place + 8] in shown for place in range(len(ratchet) - 8))


class TestAnything:
    """Nothing foreign comes out of any function, for any argument."""

    def test_odd_values(self) -> None:
        for read in (read_pre_key_header, read_megolm_session_key, megolm_message_index):
            assert only_own_errors(read) > 30

    @pytest.mark.parametrize("text", ["", "=", "A", "AA=", "AAA!", "AwA", "AB", "_-_-", "AAAA\n", " AAAA", "AAAA===="])
    def test_texts_that_are_no_base64(self, text: str) -> None:
        for read in (read_pre_key_header, read_megolm_session_key, megolm_message_index):
            with pytest.raises(RemoteProtocolError) as caught:
                read(text)
            assert (caught.value.reason is R.INVALID_BASE64) is (text != "AwA")
