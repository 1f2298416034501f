"""Devices and recipients as rooms see them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.trust.recipients import ProblemKind, RecipientProblem, Recipients
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

ME, BOB, CAROL, DAVE = "@me:a.example", "@bob:b.example", "@carol:c.example", "@dave:d.example"
ROOM = "!room:a.example"


@functools.cache
def device(
    user_id: str, device_id: str = "PHONE", *, curve: int = 0, ed: int = 0, olm: bool = True, cross_signed: bool = True
) -> VerifiedDevice:
    """A device; other numbers give it other keys."""
    keys = DeviceKeys.build(
        user_id=user_id,
        device_id=device_id,
        curve25519_key=sample_curve25519_key(f"{user_id} {device_id} {curve}"),
        signer=sample_secret_key(f"{user_id} {device_id} {ed}").signer(f"ed25519:{device_id}"),
        algorithms=[OLM_V1, MEGOLM_V1] if olm else ["m.other"],
    )
    if not cross_signed:
        return keys.verify()
    owner = SampleUser(user_id)
    signer = owner.secret("self_signing").cross_signer()
    identity = UserIdentity.verify(master_key=owner.master_key, self_signing_key=owner.self_signing_key)
    signed = add_signature(keys.signed, entity=user_id, signer=signer)
    return keys.with_signed(signed).verify(identity=identity)


MINE = device(ME, "TABLET")
PHONE, LAPTOP = device(BOB, "PHONE"), device(BOB, "LAPTOP")
CAROLS = device(CAROL, "ONLY")


def name(of: VerifiedDevice) -> tuple[str, str]:
    return of.user_id, of.device_id


def problem(*, stops: bool) -> RecipientProblem:
    return RecipientProblem(kind=ProblemKind.IDENTITY_CHANGED, user_id=BOB, stops=stops)


def recipients(
    *devices: VerifiedDevice,
    withheld: Mapping[str, Mapping[str, WithheldCode]] | None = None,
    unknown: Iterable[str] = (),
    problems: Iterable[RecipientProblem] = (),
) -> Recipients:
    of: dict[str, dict[str, VerifiedDevice]] = {}
    for chosen in devices:
        of.setdefault(chosen.user_id, {})[chosen.device_id] = chosen
    return Recipients(
        devices=of,
        withheld=withheld or {},
        problems=tuple(problems),
        unknown=frozenset(unknown),
        outdated=frozenset(),
    )


STOPPED = recipients(problems=[problem(stops=True)])


def a_session(*shared_with: VerifiedDevice, **members: Any) -> OutboundSession:
    arguments: dict[str, Any] = {"room_id": ROOM, "session_id": "SESSION", "created_at": 1000, "shared_history": True}
    made = OutboundSession(**{**arguments, **members})
    made.start_sharing(shared_with, message_index=0)
    made.confirm_sharing(map(name, shared_with))
    return made


def encrypted(session: OutboundSession, *, now: int = 1000) -> None:
    """A message is encrypted, at the index where the ratchet has to stand."""
    session.mark_encrypted(message_index=session.message_count, now=now)


class RaisingMapping(Mapping[str, Any]):
    """A mapping none of whose methods works."""

    def __getitem__(self, key: str) -> NoReturn:
        raise ZeroDivisionError(key)

    def __iter__(self) -> Iterator[str]:
        raise ZeroDivisionError

    def __len__(self) -> int:
        raise ZeroDivisionError

    def __contains__(self, key: object) -> bool:
        raise ZeroDivisionError


def raising() -> Iterator[Any]:
    """An iterator that yields nothing and raises."""
    yield from ()
    raise ZeroDivisionError


class TextOfOnesOwn(str):
    """A string, nearly."""

    __slots__ = ()


NOT_SEVERAL: list[Any] = [None, 5, "text", b"bytes", {"a": 1}, RaisingMapping()]
NO_TEXT: list[Any] = [None, True, 5, 10**5000, float("nan"), b"x", [], TextOfOnesOwn("@me:a.example")]
