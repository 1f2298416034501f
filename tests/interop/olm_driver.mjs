// OlmMachines driven over stdin and stdout, one JSON object per line: {command, ...} -> {result} or {error}.
// CRYPTO_WASM is the directory of the package @matrix-org/matrix-sdk-crypto-wasm. Ends when stdin ends.
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

console.log = console.info = console.debug = console.error; // stdout belongs to the answers
const wasm = await import(pathToFileURL(path.join(process.env.CRYPTO_WASM, 'node.mjs')));
await wasm.initAsync();
const { DeviceId, DeviceLists, EncryptionSettings, OlmMachine, RequestType, RoomId, UserId } = wasm;

const machines = new Map();
const request = (r) => ({ id: r.id ?? null, kind: RequestType[r.type], body: r.body });
const ids = (users) => users.map((user) => new UserId(user));

const commands = {
  async open({ machine, user_id, device_id }) {
    const m = await OlmMachine.initialize(new UserId(user_id), new DeviceId(device_id));
    machines.set(machine, m);
    return { ed25519: m.identityKeys.ed25519.toBase64(), curve25519: m.identityKeys.curve25519.toBase64() };
  },
  close({ machine }) {
    machines.get(machine).close();
    machines.delete(machine);
  },
  async outgoing({ machine }) {
    return (await machines.get(machine).outgoingRequests()).map(request);
  },
  async mark({ machine, id, kind, body }) {
    await machines.get(machine).markRequestAsSent(id, RequestType[kind], body); // the text as it is, not parsed here
  },
  async track({ machine, users }) {
    await machines.get(machine).updateTrackedUsers(ids(users));
  },
  async receive_counts({ machine, counts, unused_fallback }) {
    const lists = new DeviceLists();
    const unused = new Set(unused_fallback);
    await machines.get(machine).receiveSyncChanges('[]', lists, new Map(Object.entries(counts)), unused);
  },
  async devices({ machine, user_id }) {
    return (await machines.get(machine).getUserDevices(new UserId(user_id))).devices().map((d) => ({
      device_id: d.deviceId.toString(),
      ed25519: d.ed25519Key?.toBase64() ?? null,
      curve25519: d.curve25519Key?.toBase64() ?? null,
      display_name: d.displayName ?? null,
      by_owner: d.isCrossSignedByOwner(),
    }));
  },
  async identity({ machine, user_id }) {
    const identity = await machines.get(machine).getIdentity(new UserId(user_id));
    return identity ? { master_key: identity.masterKey, verified: identity.isVerified() } : null;
  },
  async bootstrap({ machine }) {
    const uploads = await machines.get(machine).bootstrapCrossSigning(true);
    return { signing_keys: uploads.uploadSigningKeysRequest.body, signatures: uploads.uploadSignaturesRequest.body };
  },
  async import_cross_signing({ machine, master, self_signing, user_signing }) {
    const status = await machines.get(machine).importCrossSigningKeys(master, self_signing, user_signing);
    return status.hasMaster && status.hasSelfSigning && status.hasUserSigning;
  },
  async verify_user({ machine, user_id }) {
    const identity = await machines.get(machine).getIdentity(new UserId(user_id));
    return (await identity.verify()).body;
  },
  async missing_sessions({ machine, users }) {
    const claim = await machines.get(machine).getMissingSessions(ids(users));
    return claim ? request(claim) : null;
  },
  async share_room_key({ machine, room_id, users }) {
    const shares = await machines.get(machine).shareRoomKey(new RoomId(room_id), ids(users), new EncryptionSettings());
    return shares.map((share) => share.event_type);
  },
};

const answer = (line) => process.stdout.write(JSON.stringify(line) + '\n');
answer({ result: 'ready' });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { command, ...args } = JSON.parse(line);
  try {
    answer({ result: (await commands[command](args)) ?? null });
  } catch (error) {
    answer({ error: String(error?.message ?? error) });
  }
}
