import t from 'tap';
import { healthOf, problemsOf } from '../../src/cli/health.js';
import { statusFields } from '../../src/cli/commands/status.js';
import { ServerStatus, StatusReply } from '../../src/protocol/generated/messages.js';

t.test('the JSON of a status has every field, those that are 0 or false too', (t) => {
  const sent = StatusReply.encode({ clusterId: 'c', servers: [{ serverId: 1, address: 'a:1' }] }).finish();
  const fields = JSON.parse(JSON.stringify(statusFields(StatusReply.decode(sent)))) as Record<string, unknown>;
  t.match(fields, { underReplicatedChunks: 0, unavailableChunks: 0, garbageChunks: 0, masterShortOfSpace: false });
  t.match(fields, { servers: [{ serverId: 1, alive: false, freeBytes: 0, chunks: 0 }] });
  // None was forgotten when the message grew: a decoded message has the defaults of all its fields.
  for (const field in StatusReply.decode(new Uint8Array())) if (field !== 'toJSON') t.ok(field in fields, field);
  const [server] = fields['servers'] as Record<string, unknown>[];
  for (const field in ServerStatus.decode(new Uint8Array()))
    if (field !== 'toJSON') t.ok(field in (server ?? {}), field);
  t.end();
});

t.test('chunks of which it is not known how many replicas they have are not healthy', (t) => {
  const server = { serverId: 1, address: 'one:1', alive: true, disks: [] };
  const said = { wantedReplicas: 1, doubtfulChunks: 2, servers: [server] };
  const status = StatusReply.decode(StatusReply.encode(said).finish());
  t.equal(healthOf(status), 'degraded');
  t.match(problemsOf(status), [/2 chunks are being recovered/]);
  t.end();
});
