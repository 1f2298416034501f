"""Answers to a /keys/query, as text: what no honest encoder writes can be written here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from interop.people import Person
from matrix_e2e_keys import JsonObject, encode_canonical_json
from matrix_e2e_keys.models.cross_signing import Usage


class Answer(NamedTuple):
    """An answer about two users: one in question, and a witness whose device is good whatever stands beside it.

    ``None`` leaves a part out. ``devices`` replaces the whole map of the user's devices.
    """

    device: str | None
    master: str | None
    self_signing: str | None
    devices: str | None = None
    others: str = ""
    """More members of ``device_keys``, with a comma after each."""

    def text(self, person: Person, witness: Person) -> str:
        """Return the whole answer."""
        user = json.dumps(person.user_id)
        device = "" if self.device is None else f"{json.dumps(person.device_id)}:{self.device}"
        devices = f"{{{device}}}" if self.devices is None else self.devices
        good = json.dumps({witness.device_id: witness.device_keys().to_json()})
        return (
            f'{{"device_keys":{{{self.others}{user}:{devices},{json.dumps(witness.user_id)}:{good}}},"failures":{{}}'
            f',"master_keys":{_of_user(user, self.master)}'
            f',"self_signing_keys":{_of_user(user, self.self_signing)},"user_signing_keys":{{}}}}'
        )


def _of_user(user: str, key: str | None) -> str:
    return "{}" if key is None else f"{{{user}:{key}}}"


def good_answer(person: Person) -> Answer:
    """Return an answer with a cross-signed device."""
    return Answer(device=device(person), master=key(person, "master"), self_signing=key(person, "self_signing"))


def content(person: Person) -> JsonObject:
    """Return the device keys, unsigned."""
    return person.device_keys().signed.content


def device(person: Person, changes: Mapping[str, object] | None = None) -> str:
    """Return the device with changes made before it was signed, by itself and by the self-signing key."""
    changed = {**content(person), **(changes or {})}
    return json.dumps(person.sign(changed, "self_signing", device=True))


def device_with_literal(person: Person, literal: str, *, signed: str | None = None) -> str:
    """Return the device with one more signed member, given as JSON text; all by hand, without the package's encoder.

    Args:
        person: the owner.
        literal: the value as it stands in the answer.
        signed: the value as it stands in the signed bytes, if that is another text.
    """
    members = encode_canonical_json(content(person)).decode()[:-1]  # "zz" sorts after all of them
    message = f'{members},"zz":{literal if signed is None else signed}}}'.encode("utf-8", "surrogatepass")
    signers = (person.signer, person.secrets["self_signing"].cross_signer())
    signatures = {str(signer.key_id): signer.sign(message).to_base64() for signer in signers}
    return f'{members},"zz":{literal},"signatures":{json.dumps({person.user_id: signatures})}}}'


def key(person: Person, usage: Usage, changes: Mapping[str, object] | None = None) -> str:
    """Return a cross-signing key with changes made before it was signed by the master key."""
    changed = {**person.cross_signing_key(usage).signed.content, **(changes or {})}
    return json.dumps(changed if usage == "master" else person.sign(changed, "master"))


def without_signatures(text: str) -> str:
    """Return an object without the member ``signatures``."""
    obj = json.loads(text)
    del obj["signatures"]
    return json.dumps(obj)


def with_bad_signature(text: str, key_id: str) -> str:
    """Return an object with one bit of one signature flipped."""
    obj = json.loads(text)
    ((_, signatures),) = obj["signatures"].items()
    signature = signatures[key_id]
    signatures[key_id] = ("B" if signature[0] == "A" else "A") + signature[1:]
    return json.dumps(obj)


def with_member(text: str, name: str, literal: str) -> str:
    """Return an object with one more member, given as JSON text and not signed."""
    return f"{text[:-1]},{json.dumps(name)}:{literal}}}"
