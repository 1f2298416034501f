"""The one-time keys of a homeserver on PostgreSQL: ``python postgresql_store.py [DSN]``. Workers need no other lock.

The library decides; the store makes it true. What an effect demands is a constraint of the schema, or a row that has to
be there. If it is not, the transaction is given up with a Conflict: read again, decide again. Cross-signing keys and
signatures would be more tables of the same kind, and are left out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterable
from typing import Any, LiteralString

import psycopg
from psycopg import errors

from matrix_e2e_keys import KeysUploadRequest, KeysUploadResponse, SignedJson, encode_canonical_json, parse_json
from matrix_e2e_keys.homeserver import effects as do
from matrix_e2e_keys.homeserver.admission.keys_upload import UploadLookup, UploadView, decide_keys_upload, upload_lookup
from matrix_e2e_keys.homeserver.claims.local_claims import HandedOutKey, KeyWanted
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.policies import SPEC, Policy
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, FallbackKeyRecord, StoredKey, UserKeys, key_digest
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

    def __init__(self, dsn: str, *, policy: Policy = SPEC) -> None:
        self.policy = policy
        self.connection = psycopg.connect(dsn, autocommit=True)

    def create_tables(self) -> None:
        """Do it once, before the workers start."""
        self.connection.execute(SCHEMA)

    def close(self) -> None:
        self.connection.close()

    def view(self, user_id: str, device_id: str, lookup: UploadLookup) -> UploadView:
        """Return what an upload is decided on."""
        at = (user_id, _bytes(device_id))
        key_ids, digests = [_bytes(key_id) for key_id in lookup.key_ids], list(lookup.digests)
        with self._transaction():
            self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")  # one snapshot
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
            DeviceRecord(device_id=_text(name), keys=keys and SignedJson.from_bytes(keys), display_name=_name(shown))
            for name, shown, keys in devices
        ]
        return UploadView(
            user=UserKeys(user_id=user_id, devices={record.device_id: record for record in records}),
            one_time_keys={_text(key_id): _read(key) for key_id, key in held},
            counts={_text(algorithm): count for algorithm, count in counts},
            claimed={_text(key_id): digest for key_id, digest in claimed},
            digests={digest: _text(key_id) for digest, key_id in known},
            fallback_keys={
                _text(algorithm): FallbackKeyRecord(key_id=_text(key_id), key=_read(key), is_used=is_used)
                for algorithm, key_id, key, is_used in fallback
            },
        )

    def apply(self, effects: Iterable[do.Effect]) -> None:
        """Do all of some effects or none. Notices are for others."""
        with self._transaction():
            for effect in effects:
                if not isinstance(effect, do.NOTICES):
                    self._do(effect)

    def claim(self, wanted: Iterable[KeyWanted]) -> list[HandedOutKey]:
        """Hand out keys, as ``decide_claims`` would, and remember them."""
        listed = list(wanted)
        handed_out: dict[int, HandedOutKey | None] = {}
        with self._transaction():
            # All claims lock in the same order, so that two of them do not wait for each other.
            for place in sorted(range(len(listed)), key=lambda place: _place_of(listed[place])):
                handed_out[place] = self._hand_out(listed[place])
        return [key for _, key in sorted(handed_out.items()) if key is not None]

    def _hand_out(self, want: KeyWanted) -> HandedOutKey | None:
        first: tuple[LiteralString, ...] = (TAKE_OLDEST,) if want.allows_one_time_key else ()
        for statement in (*first, READ_USED_FALLBACK_KEY, USE_FALLBACK_KEY):
            for key_id, key in self._rows(statement, *_place_of(want)):
                is_fallback = statement is not TAKE_OLDEST
                return HandedOutKey(wanted=want, key_id=_text(key_id), key=_read(key), is_fallback=is_fallback)
        return None

    def _do(self, effect: do.Effect) -> None:
        if isinstance(effect, do.StoreDevice):
            name = None if effect.display_name is None else _bytes(effect.display_name)
            self._change(
                "INSERT INTO devices (user_id, device_id, display_name) VALUES (%s, %s, %s)"
                " ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name",
                *(effect.user_id, _bytes(effect.device_id), name),
            )
        elif isinstance(effect, do.DeleteDevice):
            at = (effect.user_id, _bytes(effect.device_id))
            self.connection.execute("DELETE FROM devices WHERE user_id = %s AND device_id = %s", at)
        elif isinstance(effect, do.StoreDeviceKeys):
            at = (effect.user_id, _bytes(effect.device_id))
            self._change("UPDATE devices SET keys = %s WHERE user_id = %s AND device_id = %s", _write(effect.keys), *at)
        elif isinstance(effect, do.StoreOneTimeKeys):
            self._store_one_time_keys(effect)
        elif isinstance(effect, do.StoreFallbackKey):
            algorithm, key_id = _bytes(effect.key_id.partition(":")[0]), _bytes(effect.key_id)
            key = (algorithm, key_id, key_digest(effect.key), _write(effect.key))
            self.connection.execute(STORE_FALLBACK_KEY, (effect.user_id, _bytes(effect.device_id), *key))
        elif isinstance(effect, do.TakeOneTimeKey):
            at, key_id = (effect.user_id, _bytes(effect.device_id)), _bytes(effect.key_id)
            that = "one_time_keys WHERE user_id = %s AND device_id = %s AND key_id = %s AND digest = %s"
            self._change(f"DELETE FROM {that}", *at, key_id, effect.digest)
            self._change("INSERT INTO claimed_keys VALUES (%s, %s, %s, %s)", *at, effect.digest, key_id)
        elif isinstance(effect, do.MarkFallbackKeyUsed):
            at = (effect.user_id, _bytes(effect.device_id))
            that = "fallback_keys SET is_used = TRUE WHERE user_id = %s AND device_id = %s AND key_id = %s"
            self._change(f"UPDATE {that}", *at, _bytes(effect.key_id))
        else:
            raise NotImplementedError(type(effect).__name__)

    def _store_one_time_keys(self, effect: do.StoreOneTimeKeys) -> None:
        at = (effect.user_id, _bytes(effect.device_id))
        # Uploads of one device come one after the other; claims go on.
        self._change("UPDATE devices SET uploads = uploads + 1 WHERE user_id = %s AND device_id = %s", *at)
        digests = {_bytes(key_id): key_digest(key) for key_id, key in effect.keys.items()}
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


def upload(store: PostgresqlStore, request: KeysUploadRequest, requester: Requester) -> Decision[KeysUploadResponse]:
    """Decide about an upload and store it; again, if somebody else was faster."""
    lookup = upload_lookup(request, policy=store.policy)
    for _ in range(20):
        view = store.view(requester.user_id, requester.device_id or "", lookup)
        decision = decide_keys_upload(request, requester=requester, view=view, policy=store.policy)
        with contextlib.suppress(Conflict):
            store.apply(decision.effects)
            return decision
    raise Conflict("too busy")


def _place_of(want: KeyWanted) -> tuple[str, bytes, bytes]:
    return want.user_id, _bytes(want.device_id), _bytes(want.algorithm)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _name(name: bytes | None) -> str | None:
    return None if name is None else _text(name)


def _write(key: StoredKey) -> str:
    return encode_canonical_json(key if isinstance(key, str) else key.to_json()).decode()


def _read(text: str) -> StoredKey:
    return str(parse_json(text)) if text.startswith('"') else SignedJson.from_bytes(text)


def main(dsn: str = "") -> None:
    """Upload three one-time keys and a fallback key, claim five keys, and upload the same again."""
    store, alice, phone = PostgresqlStore(dsn), SampleUser("@alice:a.example"), "PHONE"
    requester = Requester(user_id=alice.user_id, device_id=phone)
    wanted = KeyWanted(user_id=alice.user_id, device_id=phone, algorithm="signed_curve25519")
    store.create_tables()
    store.apply([do.DeleteDevice(user_id=alice.user_id, device_id=phone)])
    store.apply([do.StoreDevice(user_id=alice.user_id, device_id=phone)])
    request = KeysUploadRequest.for_keys(
        device_keys=alice.device(phone, cross_signed=False),
        one_time_keys=[alice.one_time_key(phone, name) for name in ("B", "A", "C")],
        fallback_keys=[alice.one_time_key(phone, "F", fallback=True)],
    )
    print("uploaded:", upload(store, request, requester).require().to_json())
    for _ in range(5):
        for key in store.claim([wanted]):
            print("claimed:", key.key_id, "(fallback)" if key.is_fallback else "(one-time)")
    print("uploaded again:", upload(store, request, requester).require().to_json())
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
