"""What a caller hands to a room: recipients, users, names of devices. Taken apart before anything changes.

Facts:

* A device is named by the pair of its user id and its device id.
* Recipients are a value that anybody can make, so what is in them is looked at again.
* Who is in a room, the state of the room says, and anybody can put a membership there that is nobody's. Such a one has
  no devices, and must not keep the others from being heard: it is kept as it stands.
* Mappings and sets may be of any class. Whatever theirs raise is the caller's fault.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from attrs import frozen

from matrix_e2e_keys.client.trust.recipients import ProblemKind, RecipientProblem, Recipients
from matrix_e2e_keys.endpoints.members import frozen_map, items
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, printable, raised_as
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import DeviceId, UserId, parse_device_id, parse_user_id, read_identifier
from matrix_e2e_keys.json_trees import wrong_type
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = [
    "Chosen",
    "DeviceName",
    "by_name",
    "by_user",
    "check_codes",
    "check_device",
    "check_devices",
    "check_members",
    "check_names",
    "check_recipients",
    "name_of",
    "reading_argument",
]

T = TypeVar("T")

DeviceName: TypeAlias = tuple[str, str]
"""A user id, and the id of one of the user's devices."""


@frozen(kw_only=True)
class Chosen:
    """Recipients, taken apart.

    Attributes:
        devices: whom to send the key to.
        withheld: whom not to, and why not.
        unknown: users of whom nothing is known.
        is_stopped: whether the policy stops, so that the above says nothing of anybody.
    """

    devices: Mapping[DeviceName, VerifiedDevice]
    withheld: Mapping[DeviceName, WithheldCode]
    unknown: frozenset[str]
    is_stopped: bool

    @property
    def users(self) -> frozenset[str]:
        """Everybody who is named."""
        return self.unknown.union(user_id for user_id, _ in (*self.devices, *self.withheld))


@contextmanager
def reading_argument(name: str) -> Generator[None, None, None]:
    """Whatever is refused or raised while an argument is read is the caller's fault."""
    with raised_as(LocalProtocolError), callers_own(name):
        yield


def check_recipients(recipients: object) -> Chosen:
    """Take recipients.

    Raises:
        LocalProtocolError: they are none, or hold what :func:`~matrix_e2e_keys.select_recipients` never returns.
    """
    with reading_argument("recipients"):
        if type(recipients) is not Recipients:
            raise wrong_type("recipients must be Recipients", recipients, "recipients")
        problems = recipients.problems
        if type(problems) is not tuple or not all(map(_is_problem, problems)):
            raise Refusal(Reason.WRONG_TYPE, "problems are a tuple of RecipientProblems", "recipients", "problems")
        devices = by_name(recipients.devices, VerifiedDevice, "recipients", "devices")
        withheld = by_name(recipients.withheld, WithheldCode, "recipients", "withheld")
        for name, device in devices.items():
            if name_of(device) != name:
                detail = f"{device!r} stands under the name of another device"
                raise Refusal(Reason.DEVICE_ID_MISMATCH, detail, "recipients", "devices", *name)
            _require_olm(device, "recipients", "devices", *name)
            if name in withheld:
                raise Refusal(Reason.INVALID_VALUE, f"{device!r} is a recipient", "recipients", "withheld", *name)
        return Chosen(
            devices=devices,
            withheld=withheld,
            unknown=_users(recipients.unknown, "recipients", "unknown"),
            is_stopped=any(problem.stops for problem in problems),
        )


def check_members(members: object, name: str) -> frozenset[str]:
    """Take users as the state of a room names them: user ids, and whatever else stands in their place.

    One string is not several. What cannot be written in UTF-8 is written out.

    Raises:
        LocalProtocolError: they are not several, or one of them is no string.
    """
    with reading_argument(name):
        found: set[str] = set()
        for place, member in enumerate(items(members, name)):
            if type(member) is not str:
                raise wrong_type(f"{name} are strings", member, name, place)
            found.add(printable(member))
        return frozenset(found)


def check_names(names: object, name: str) -> tuple[DeviceName, ...]:
    """Take names of devices, each once.

    Raises:
        LocalProtocolError: one of them is not a pair of a user id and a device id.
    """
    with reading_argument(name):
        found: dict[DeviceName, None] = {}
        for place, pair in enumerate(items(names, name)):
            if type(pair) is not tuple or len(pair) != 2:
                detail = "a device is named by a pair of its user id and its device id"
                raise Refusal(Reason.WRONG_TYPE, detail, name, place)
            user_id, device_id = pair
            found[_user_id(user_id, name, place), _device_id(device_id, name, place)] = None
        return tuple(found)


def check_device(device: object) -> VerifiedDevice:
    """Take a device.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(device) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/device")
    return device


def check_devices(devices: object) -> tuple[VerifiedDevice, ...]:
    """Take the devices that a key is sent to.

    Raises:
        LocalProtocolError: one of them is no device that a key can be sent to, or two have the same name.
    """
    with reading_argument("devices"):
        found: dict[DeviceName, VerifiedDevice] = {}
        for place, device in enumerate(items(devices, "devices")):
            if type(device) is not VerifiedDevice:
                raise wrong_type("a device must be a VerifiedDevice", device, "devices", place)
            _require_olm(device, "devices", place)
            if found.setdefault(name_of(device), device) != device:
                raise Refusal(Reason.INVALID_VALUE, f"{device!r} is given twice", "devices", place)
        return tuple(found.values())


def check_codes(codes: object) -> Mapping[DeviceName, WithheldCode]:
    """Take a mapping of user ids to device ids to codes.

    Raises:
        LocalProtocolError: it is none.
    """
    with reading_argument("codes"):
        return by_name(codes, WithheldCode, "codes")


def name_of(device: VerifiedDevice) -> DeviceName:
    """Return the name of a device."""
    return device.user_id, device.device_id


def by_name(value: object, kind: type[T], *at: str) -> dict[DeviceName, T]:
    """Return a mapping of user ids to device ids to values of a kind as one of names to values.

    Raises:
        Refusal: it is none.
    """
    found: dict[DeviceName, T] = {}
    for user, of in frozen_map(value, *at).items():
        user_id = _user_id(user, *at, user)
        for device, member in frozen_map(of, *at, user).items():
            device_id = _device_id(device, *at, user, device)
            if type(member) is not kind:
                raise wrong_type(f"here must be a {kind.__name__}", member, *at, user, device)
            found[user_id, device_id] = member
    return found


def by_user(members: Mapping[DeviceName, T]) -> Mapping[str, Mapping[str, T]]:
    """Return what is kept by the names of devices as user id to device id to it."""
    sorted_out: dict[str, dict[str, T]] = {}
    for (user_id, device_id), member in members.items():
        sorted_out.setdefault(user_id, {})[device_id] = member
    return FrozenMap({user_id: FrozenMap(of) for user_id, of in sorted_out.items()})


def _users(value: Any, *at: str) -> frozenset[UserId]:
    return frozenset([_user_id(user, *at, place) for place, user in enumerate(items(value, *at))])


def _user_id(value: object, *at: str | int) -> UserId:
    return read_identifier(parse_user_id, value, *at)


def _device_id(value: object, *at: str | int) -> DeviceId:
    return read_identifier(parse_device_id, value, *at)


def _is_problem(problem: object) -> bool:
    return type(problem) is RecipientProblem and type(problem.kind) is ProblemKind and type(problem.stops) is bool


def _require_olm(device: VerifiedDevice, *at: str | int) -> None:
    if not device.supports_olm:
        raise Refusal(Reason.UNSUPPORTED_ALGORITHM, f"{device!r} does not support Olm", *at)
