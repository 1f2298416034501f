"""The one-time keys of a homeserver on PostgreSQL: ``python postgresql_store.py [DSN]``. Workers need no other lock.

The library decides; the store makes it true. An upload is read, decided and written in one transaction; others wait.
Besides, what an effect demands is a constraint of the schema, or a row that has to be there: if it is not, all is
given up with a Conflict. Cross-signing keys and signatures would be more tables of the same kind, and are left out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterable
from typing import Any, LiteralString, assert_never

import psycopg
from psycopg import errors

from matrix_e2e_keys import KeysUploadRequest, KeysUploadResponse, SignedJson, encode_canonical_json, parse_json
from matrix_e2e_keys import homeserver as hs
from matrix_e2e_keys.testing.samples import SampleUser

# Names that clients choose are bytes: TEXT refuses U+0000, which is a device id like any other, and sorts by locale.
SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    user_id TEXT, device_id BYTEA, display_name BYTEA, keys TEXT, uploads BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, device_id));
CREATE TABLE IF NOT EXISTS one_time_keys (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id TEXT NOT NULL, device_id BYTEA NOT NULL,
    algorithm BYTEA NOT NULL, key_id BYTEA NOT NULL, digest TEXT NOT NULL, key TEXT NOT NULL, uploaded BIGINT NOT NULL,
    UNIQUE (user_id, device_id, key_id), UNIQUE (user_id, device_id, digest),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS oldest_key ON one_time_keys (user_id, device_id, algorithm, uploaded, key_id);
CREATE TABLE IF NOT EXISTS claimed_keys (
    user_id TEXT, device_id BYTEA, digest TEXT, key_id BYTEA NOT NULL,
    PRIMARY KEY (user_id, device_id, digest), FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS claimed_id ON claimed_keys (user_id, device_id, key_id);
CREATE TABLE IF NOT EXISTS fallback_keys (
    user_id TEXT, device_id BYTEA, algorithm BYTEA, key_id BYTEA NOT NULL,
    digest TEXT NOT NULL, key TEXT NOT NULL, is_used BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (user_id, device_id, algorithm),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE);
"""

# Before anything is read: each statement that follows sees what those did who had the lock. Uploads lock the devices in
# the order in which claims do, and claims lock one before its keys, so that none of them wait for each other.
LOCK_DEVICES = "SELECT 1 FROM devices WHERE user_id = %s ORDER BY device_id FOR UPDATE"
SHARE_DEVICE = "SELECT 1 FROM devices WHERE user_id = %s AND device_id = %s FOR KEY SHARE"

# A key that another transaction is about to take is passed over, not waited for.
TAKE_OLDEST = """
WITH taken AS (
    DELETE FROM one_time_keys WHERE id = (
        SELECT id FROM one_time_keys WHERE user_id = %s AND device_id = %s AND algorithm = %s
        ORDER BY uploaded, key_id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING user_id, device_id, digest, key_id, key
), receipt AS (
    INSERT INTO claimed_keys (user_id, device_id, digest, key_id) SELECT user_id, device_id, digest, key_id FROM taken
)
SELECT key_id, key FROM taken"""

READ_USED_FALLBACK_KEY = """
SELECT key_id, key FROM fallback_keys WHERE user_id = %s AND device_id = %s AND algorithm = %s AND is_used"""

USE_FALLBACK_KEY = """
UPDATE fallback_keys SET is_used = TRUE WHERE user_id = %s AND device_id = %s AND algorithm = %s
RETURNING key_id, key"""

STORE_FALLBACK_KEY = """
INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, digest, key) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
SET key_id = excluded.key_id, digest = excluded.digest, key = excluded.key, is_used = FALSE
WHERE fallback_keys.digest <> excluded.digest"""

STORE_ONE_TIME_KEY = """
INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, digest, key, uploaded)
SELECT user_id, device_id, %s, %s, %s, %s, uploads FROM devices WHERE user_id = %s AND device_id = %s"""


class Conflict(Exception):  # noqa: N818
    """Somebody else was faster. Nothing was changed."""


class PostgresqlStore:
    """Devices and their one-time and fallback keys. One connection, READ COMMITTED; ``synchronous_commit`` stays on."""

    def __init__(self, dsn: str, *, policy: hs.Policy = hs.SPEC) -> None:
        self.policy = policy
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED

    def create_tables(self) -> None:
        """Do it once, before the workers start."""
        self.connection.execute(SCHEMA)

    def close(self) -> None:
        self.connection.close()

    def upload(self, request: KeysUploadRequest, requester: hs.Requester) -> hs.Decision[KeysUploadResponse]:
        """Decide about an upload and store it. Meanwhile nobody changes the user's devices, or claims from them."""
        lookup = hs.upload_lookup(request, policy=self.policy)
        with self._transaction():
            self._rows(LOCK_DEVICES, requester.user_id)
            view = self.view(requester.user_id, requester.device_id or "", lookup)
            decision = hs.decide_keys_upload(request, requester=requester, view=view, policy=self.policy)
            for effect in decision.effects:
                self._do(effect)
        return decision

    def view(self, user_id: str, device_id: str, lookup: hs.UploadLookup) -> hs.UploadView:
        """Return what an upload is decided on. Only in the transaction that writes does it stay true."""
        at = (user_id, _bytes(device_id))
        key_ids, digests = [_bytes(key_id) for key_id in lookup.key_ids], list(lookup.digests)
        devices = self._rows("SELECT device_id, display_name, keys FROM devices WHERE user_id = %s", user_id)
        that = "FROM one_time_keys WHERE user_id = %s AND device_id = %s"
        those = "FROM claimed_keys WHERE user_id = %s AND device_id = %s"
        counts = self._rows(f"SELECT algorithm, count(*) {that} GROUP BY algorithm", *at)
        held = self._rows(f"SELECT key_id, key {that} AND key_id = ANY(%s)", *at, key_ids)
        claimed = self._rows(f"SELECT key_id, digest {those} AND key_id = ANY(%s)", *at, key_ids)
        known = self._rows(f"SELECT digest, key_id {that} AND digest = ANY(%s)", *at, digests)
        known += self._rows(f"SELECT digest, key_id {those} AND digest = ANY(%s)", *at, digests)
        that = "FROM fallback_keys WHERE user_id = %s AND device_id = %s"
        fallback = self._rows(f"SELECT algorithm, key_id, key, is_used {that}", *at)
        records = [
            hs.DeviceRecord(
                device_id=_text(name),
                keys=keys and SignedJson.from_bytes(keys),
                display_name=None if shown is None else _text(shown),
            )
            for name, shown, keys in devices
        ]
        return hs.UploadView(
            user=hs.UserKeys(user_id=user_id, devices={record.device_id: record for record in records}),
            one_time_keys={_text(key_id): _read(key) for key_id, key in held},
            counts={_text(algorithm): count for algorithm, count in counts},
            claimed={_text(key_id): digest for key_id, digest in claimed},
            digests={digest: _text(key_id) for digest, key_id in known},
            fallback_keys={
                _text(algorithm): hs.FallbackKeyRecord(key_id=_text(key_id), key=_read(key), is_used=is_used)
                for algorithm, key_id, key, is_used in fallback
            },
        )

    def apply(self, effects: Iterable[hs.Effect]) -> None:
        """Do all of some effects or none. What a decision saw of a device's keys is not looked at: see ``upload``."""
        with self._transaction():
            for effect in effects:
                self._do(effect)

    def claim(self, wanted: Iterable[hs.KeyWanted]) -> list[hs.HandedOutKey]:
        """Hand out keys, as ``decide_claims`` would, and remember them."""
        with self._transaction():
            # All claims lock in the same order, so that two of them do not wait for each other.
            in_order = sorted(enumerate(wanted), key=lambda item: _place_of(item[1]))
            handed_out = {place: self._hand_out(want) for place, want in in_order}
        return [key for _, key in sorted(handed_out.items()) if key is not None]

    def _hand_out(self, want: hs.KeyWanted) -> hs.HandedOutKey | None:
        self._rows(SHARE_DEVICE, want.user_id, _bytes(want.device_id))
        first: tuple[LiteralString, ...] = (TAKE_OLDEST,) if want.allows_one_time_key else ()
        for statement in (*first, READ_USED_FALLBACK_KEY, USE_FALLBACK_KEY):
            for key_id, key in self._rows(statement, *_place_of(want)):
                is_fallback = statement is not TAKE_OLDEST
                return hs.HandedOutKey(wanted=want, key_id=_text(key_id), key=_read(key), is_fallback=is_fallback)
        return None

    def _do(self, effect: hs.Effect) -> None:
        match effect:
            case hs.StoreDevice():
                name = None if effect.display_name is None else _bytes(effect.display_name)
                self._change(
                    "INSERT INTO devices (user_id, device_id, display_name) VALUES (%s, %s, %s)"
                    " ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name",
                    *(effect.user_id, _bytes(effect.device_id), name),
                )
            case hs.DeleteDevice():
                at = (effect.user_id, _bytes(effect.device_id))
                self.connection.execute("DELETE FROM devices WHERE user_id = %s AND device_id = %s", at)
            case hs.StoreDeviceKeys():
                at = (effect.user_id, _bytes(effect.device_id))
                that = "devices SET keys = %s WHERE user_id = %s AND device_id = %s"
                self._change(f"UPDATE {that}", _write(effect.keys), *at)
            case hs.StoreOneTimeKeys():
                self._store_one_time_keys(effect)
            case hs.ForgetOneTimeKeys():
                at, where = (effect.user_id, _bytes(effect.device_id)), "WHERE user_id = %s AND device_id = %s"
                for table in ("one_time_keys", "fallback_keys"):
                    self.connection.execute(f"DELETE FROM {table} {where}", at)
                self.connection.execute(f"UPDATE claimed_keys SET key_id = '' {where}", at)
            case hs.StoreFallbackKey():
                algorithm, key_id = _bytes(effect.key_id.partition(":")[0]), _bytes(effect.key_id)
                key = (algorithm, key_id, hs.key_digest(effect.key), _write(effect.key))
                self.connection.execute(STORE_FALLBACK_KEY, (effect.user_id, _bytes(effect.device_id), *key))
            case hs.TakeOneTimeKey():
                at, key_id = (effect.user_id, _bytes(effect.device_id)), _bytes(effect.key_id)
                that = "one_time_keys WHERE user_id = %s AND device_id = %s AND key_id = %s AND digest = %s"
                self._change(f"DELETE FROM {that}", *at, key_id, effect.digest)
                self._change("INSERT INTO claimed_keys VALUES (%s, %s, %s, %s)", *at, effect.digest, key_id)
            case hs.MarkFallbackKeyUsed():
                at = (effect.user_id, _bytes(effect.device_id))
                that = "fallback_keys SET is_used = TRUE WHERE user_id = %s AND device_id = %s AND key_id = %s"
                self._change(f"UPDATE {that}", *at, _bytes(effect.key_id))
            case hs.DeviceChanged() | hs.IdentityChanged() | hs.SignedOthers():
                pass  # notices are for others
            case hs.StoreCrossSigningKey() | hs.DropCrossSigningKey():
                raise NotImplementedError(type(effect).__name__)
            case hs.IfUnchanged() | hs.StoreSignature() | hs.DropSignaturesBy() | hs.DropSignaturesOn():
                raise NotImplementedError(type(effect).__name__)
            case _:
                assert_never(effect)

    def _store_one_time_keys(self, effect: hs.StoreOneTimeKeys) -> None:
        at = (effect.user_id, _bytes(effect.device_id))
        # Uploads of one device come one after the other.
        self._change("UPDATE devices SET uploads = uploads + 1 WHERE user_id = %s AND device_id = %s", *at)
        digests = {_bytes(key_id): hs.key_digest(key) for key_id, key in effect.keys.items()}
        for name, key in effect.keys.items():
            key_id = _bytes(name)
            values = (_bytes(name.partition(":")[0]), key_id, digests[key_id], _write(key))
            self._change(STORE_ONE_TIME_KEY, *values, *at)
        # Only now: to insert a key that is being claimed waits for that claim, and this statement sees its receipt.
        which = "(digest = ANY(%s) OR (%s AND key_id = ANY(%s)))"
        that = f"SELECT key_id FROM claimed_keys WHERE user_id = %s AND device_id = %s AND {which}"
        if self._rows(that, *at, list(digests.values()), self.policy.refuses_claimed_ids, list(digests)):
            raise Conflict("a key has been claimed")

    def _change(self, statement: LiteralString, *values: object) -> None:
        """Run a statement that holds if it changes a row."""
        if self.connection.execute(statement, values).rowcount != 1:
            raise Conflict(statement)

    def _rows(self, statement: LiteralString, *values: object) -> list[Any]:
        return self.connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        try:
            with self.connection.transaction():
                yield
        except (errors.IntegrityError, errors.DeadlockDetected, errors.SerializationFailure) as error:
            raise Conflict(str(error)) from error


def _place_of(want: hs.KeyWanted) -> tuple[str, bytes, bytes]:
    return want.user_id, _bytes(want.device_id), _bytes(want.algorithm)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _write(key: hs.StoredKey) -> str:
    return encode_canonical_json(key if isinstance(key, str) else key.to_json()).decode()


def _read(text: str) -> hs.StoredKey:
    return str(parse_json(text)) if text.startswith('"') else SignedJson.from_bytes(text)


def main(dsn: str = "") -> None:
    """Upload three one-time keys and a fallback key, claim five keys, and upload the same again."""
    store, alice, phone = PostgresqlStore(dsn), SampleUser("@alice:a.example"), "PHONE"
    requester = hs.Requester(user_id=alice.user_id, device_id=phone)
    wanted = hs.KeyWanted(user_id=alice.user_id, device_id=phone, algorithm="signed_curve25519")
    store.create_tables()
    store.apply([hs.DeleteDevice(user_id=alice.user_id, device_id=phone)])
    store.apply([hs.StoreDevice(user_id=alice.user_id, device_id=phone)])
    request = KeysUploadRequest.for_keys(
        device_keys=alice.device(phone, cross_signed=False),
        one_time_keys=[alice.one_time_key(phone, name) for name in ("B", "A", "C")],
        fallback_keys=[alice.one_time_key(phone, "F", fallback=True)],
    )
    print("uploaded:", store.upload(request, requester).require().to_json())
    for _ in range(5):
        for key in store.claim([wanted]):
            print("claimed:", key.key_id, "(fallback)" if key.is_fallback else "(one-time)")
    print("uploaded again:", store.upload(request, requester).require().to_json())
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
