// OlmMachines driven over stdin and stdout, one JSON object per line: {command, ...} -> {result} or {error}.
// CRYPTO_WASM is the directory of the package @matrix-org/matrix-sdk-crypto-wasm. Ends when stdin ends.
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

console.log = console.info = console.debug = console.error; // stdout belongs to the answers
const wasm = await import(pathToFileURL(path.join(process.env.CRYPTO_WASM, 'node.mjs')));
await wasm.initAsync();
const { CollectStrategy, DeviceId, DeviceLists, EncryptionSettings, OlmMachine, RequestType, RoomId, UserId } = wasm;
const { Attachment, DecryptionErrorCode, DecryptionSettings, ProcessedToDeviceEventType, TrustRequirement } = wasm;

const machines = new Map();
const request = (r) => ({
  id: r.id ?? null,
  kind: RequestType[r.type],
  body: r.body,
  event_type: r.event_type ?? null, // of what is sent to devices, as is the next
  txn_id: r.txn_id ?? null,
});
const trusting = (requirement) => new DecryptionSettings(TrustRequirement[requirement]);
const received = ({ type, rawEvent, encryptionInfo }) => ({
  outcome: ProcessedToDeviceEventType[type],
  event: rawEvent,
  sender: encryptionInfo?.sender.toString() ?? null,
  device_id: encryptionInfo?.senderDevice?.toString() ?? null,
  curve25519: encryptionInfo?.senderCurve25519Key ?? null,
  verified: encryptionInfo?.isSenderVerified() ?? false,
});
const ids = (users) => users.map((user) => new UserId(user));
const deviceOf = (machine, user, device) => machines.get(machine).getDevice(new UserId(user), new DeviceId(device));

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
  async receive_changed({ machine, users, counts }) {
    const lists = new DeviceLists(ids(users), []);
    const unused = new Set(Object.keys(counts)); // the fallback keys of these machines stay unused
    await machines.get(machine).receiveSyncChanges('[]', lists, new Map(Object.entries(counts)), unused);
  },
  async trust({ machine, user_id }) {
    const identity = await machines.get(machine).getIdentity(new UserId(user_id));
    const devices = (await machines.get(machine).getUserDevices(new UserId(user_id))).devices();
    return {
      verified: identity?.isVerified() ?? false,
      violation: identity?.hasVerificationViolation() ?? false,
      needs_approval: identity?.identityNeedsUserApproval?.() ?? false,
      verified_devices: devices.filter((d) => d.isCrossSigningTrusted()).map((d) => d.deviceId.toString()),
    };
  },
  async verify_device({ machine, user_id, device_id }) {
    return (await (await deviceOf(machine, user_id, device_id)).verify()).body;
  },
  async pin_identity({ machine, user_id }) {
    const identity = await machines.get(machine).getIdentity(new UserId(user_id));
    await identity.withdrawVerification();
    await identity.pinCurrentMasterKey();
  },
  async export_cross_signing({ machine }) {
    const keys = await machines.get(machine).exportCrossSigningKeys();
    return { master: keys.masterKey, self_signing: keys.self_signing_key, user_signing: keys.userSigningKey };
  },
  async cross_signing_status({ machine }) {
    const status = await machines.get(machine).crossSigningStatus();
    return status.hasMaster && status.hasSelfSigning && status.hasUserSigning;
  },
  async share_by_strategy({ machine, room_id, users, strategy }) {
    const settings = new EncryptionSettings();
    settings.sharingStrategy = CollectStrategy[strategy]();
    const shares = await machines.get(machine).shareRoomKey(new RoomId(room_id), ids(users), settings);
    return shares.map((share) => ({ event_type: share.event_type, body: share.body }));
  },
  async receive_sync({ machine, to_device, changed, left, counts, unused_fallback, trust }) {
    const lists = new DeviceLists(ids(changed), ids(left));
    const numbers = new Map(Object.entries(counts));
    const m = machines.get(machine);
    const events = await m.receiveSyncChanges(to_device, lists, numbers, new Set(unused_fallback), trusting(trust));
    return events.map(received);
  },
  async share_room_key_requests({ machine, room_id, users, strategy }) {
    const settings = new EncryptionSettings();
    settings.sharingStrategy = CollectStrategy[strategy]();
    return (await machines.get(machine).shareRoomKey(new RoomId(room_id), ids(users), settings)).map(request);
  },
  async discard_room_key({ machine, room_id }) {
    return await machines.get(machine).invalidateGroupSession(new RoomId(room_id));
  },
  async encrypt_to_device({ machine, user_id, device_id, event_type, content }) {
    return await (await deviceOf(machine, user_id, device_id)).encryptToDeviceEvent(event_type, JSON.parse(content));
  },
  async encrypt_room_event({ machine, room_id, event_type, content }) {
    return await machines.get(machine).encryptRoomEvent(new RoomId(room_id), event_type, content);
  },
  async decrypt_room_event({ machine, room_id, event, trust }) {
    try {
      const found = await machines.get(machine).decryptRoomEvent(event, new RoomId(room_id), trusting(trust));
      return {
        event: found.event,
        refused: null,
        withheld: null,
        sender: found.sender.toString(),
        device_id: found.senderDevice?.toString() ?? null,
        curve25519: found.senderCurve25519Key,
        ed25519: found.senderClaimedEd25519Key ?? null,
      };
    } catch (error) {
      if (error.code === undefined) throw error;
      const refused = DecryptionErrorCode[error.code];
      const withheld = error.maybe_withheld ?? null;
      return { event: null, refused, withheld, sender: null, device_id: null, curve25519: null, ed25519: null };
    }
  },
  async room_key_bundle({ machine, room_id }) {
    const encrypted = await machines.get(machine).buildRoomKeyBundle(new RoomId(room_id));
    if (!encrypted) return null;
    const encryption_info = encrypted.mediaEncryptionInfo; // it is gone after the decryption
    return { encryption_info, bundle: Buffer.from(Attachment.decrypt(encrypted)).toString() };
  },
  async receive_room_key_bundle({ machine, room_id, user_id, file }) {
    const found = await machines.get(machine).getReceivedRoomKeyBundleData(new RoomId(room_id), new UserId(user_id));
    if (!found) return null;
    const url = found.url; // it is gone with what it belongs to
    await machines.get(machine).receiveRoomKeyBundle(found, Buffer.from(file, 'base64'));
    return url;
  },
  encrypt_file({ text }) {
    const encrypted = Attachment.encrypt(Buffer.from(text));
    const file = Buffer.from(encrypted.encryptedData).toString('base64');
    return { encryption_info: encrypted.mediaEncryptionInfo, file };
  },
  async sign({ machine, user_id, device_id, message }) {
    const signatures = JSON.parse((await machines.get(machine).sign(message)).asJSON());
    return signatures[user_id][`ed25519:${device_id}`];
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
