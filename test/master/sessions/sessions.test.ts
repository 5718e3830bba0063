/** Sessions: P6 (exactly once), P5 (tails of dead writers), opens and orphans, over crashes of the master. */
import t from 'tap';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import { inodeId, sessionId as makeSessionId } from '../../../src/core/ids.js';
import { SESSION_TTL_MS } from '../../../src/core/limits.js';
import { keys } from '../../../src/master/state/keys.js';
import { OpenFlagsBit, SessionRecord } from '../../../src/protocol/generated/messages.js';
import { MasterCluster } from '../support/master-cluster.js';
import type { TestClient } from '../support/master-cluster.js';

t.test('P6: a create that is retried over a reconnect and a restart takes effect once', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const operation = client.operation();
  const inode = await client.create('once', 0, operation);

  const second = await cluster.client(client.sessionId);
  t.equal(await second.create('once', 0, operation), inode, 'the first answer, and not EEXIST');
  await t.rejects(client.create('late', 0, { sequence: 2, ackedBelow: 1 }), /connection|session/i);

  for (const how of ['kill', 'power'] as const) {
    // Power loss may take what was not synced.
    await cluster.until(second.peer.call(MASTER_METHODS.sync, {}).catch(() => undefined));
    await cluster.restartMaster(how);
    const again = await cluster.client(client.sessionId);
    t.equal(again.sessionId, client.sessionId, 'the session stands');
    if (how === 'kill') t.equal(await again.create('once', 0, operation), inode);
    await cluster.until(again.peer.call(MASTER_METHODS.sync, {}));
  }
  const last = await cluster.client(client.sessionId);
  t.equal(await last.create('once', 0, operation), inode);
  await t.rejects(last.unlink('once', operation), { code: 'PROTOCOL' });
  await cluster.stop();
});

t.test('P6: a failure is answered alike again, and replies are dropped when they were acknowledged', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const failed = { sequence: 1, ackedBelow: 1 };
  await t.rejects(client.unlink('x', failed), { code: 'ENOENT' });
  client.sequence = 1;
  const other = await cluster.client();
  await other.create('x');
  await t.rejects(client.unlink('x', failed), { code: 'ENOENT' });
  const operation = { sequence: 2, ackedBelow: 2 };
  const inode = await client.create('y', 0, operation);
  await client.create('z', 0, { sequence: 3, ackedBelow: 2 });
  t.equal(await client.create('y', 0, operation), inode);
  await client.create('w', 0, { sequence: 4, ackedBelow: 4 });
  await t.rejects(client.create('y', 0, operation), { code: 'PROTOCOL' });
  await t.rejects(client.create('v', 0, { sequence: 0, ackedBelow: 0 }), { code: 'PROTOCOL' });
  await cluster.stop();
});

t.test('P6: a file without a name outlives the loss of the answer that told of it', async (t) => {
  for (const how of ['cut', 'kill'] as const) {
    const cluster = new MasterCluster();
    await cluster.start(0);
    const first = await cluster.client();
    const operation = first.operation();
    const make = async (client: TestClient): Promise<number> => {
      const caller = { uid: 0, gid: 0, groups: [] };
      const flags = OpenFlagsBit.READ | OpenFlagsBit.WRITE;
      const request = { operation, caller, parent: 1, mode: 0o100600, temporary: true, openFlags: flags };
      return (await cluster.until(client.peer.call(MASTER_METHODS.create, request))).reply.attributes?.inode ?? 0;
    };
    const inode = await make(first);
    // Without the answer, the client does not know that it has the file open.
    if (how === 'kill') await cluster.restartMaster('kill');
    const second = await cluster.client(first.sessionId);
    await cluster.until(second.peer.call(MASTER_METHODS.reclaim, { done: true }));
    await cluster.wait(1_500);
    t.equal(await make(second), inode);
    const { reply } = await cluster.until(second.peer.call(MASTER_METHODS.getAttributes, { inode }));
    t.equal(reply.nlink, 0, how);
    await cluster.until(second.peer.call(MASTER_METHODS.keepSession, { ackedBelow: operation.sequence + 1 }));
    await cluster.wait(1_500);
    t.ok(cluster.store.get(keys.inode(inodeId(inode))) !== undefined, 'it is open');
    await cluster.until(second.peer.call(MASTER_METHODS.close, { inode, readers: 1, writers: 1 }));
    await cluster.wait(3_000);
    t.equal(cluster.store.get(keys.inode(inodeId(inode))), undefined, 'and is gone with its last close');
    await cluster.stop();
  }
});

t.test('without a session nothing is served, and an expired one is not resumed', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const before = client.sessionId;
  await cluster.wait(SESSION_TTL_MS + 2_000);
  await t.rejects(client.create('x'), { code: 'SESSION_EXPIRED' });
  t.notOk(await client.openSession(before));
  t.not(client.sessionId, before);
  await client.create('x', 0, { sequence: 1, ackedBelow: 1 });
  await cluster.stop();
});

t.test('a session is resumed by who knows its token, and by nobody else, also after a restart', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const { sessionId } = client;
  const token = cluster.tokens.get(sessionId) ?? Buffer.alloc(0);
  t.ok(token.length >= 16, 'it cannot be guessed');
  for (const guess of [Buffer.alloc(0), Buffer.alloc(32), Buffer.concat([token, token])]) {
    cluster.tokens.set(sessionId, guess);
    const thief = await cluster.client(sessionId);
    t.not(thief.sessionId, sessionId);
    await cluster.until(thief.peer.call(MASTER_METHODS.closeSession, {}));
    await client.create(`still-${guess.length}-${guess[0] ?? 'none'}`);
  }
  await cluster.restartMaster('kill');
  cluster.tokens.set(sessionId, Buffer.alloc(32, 1));
  t.not((await cluster.client(sessionId)).sessionId, sessionId);
  cluster.tokens.set(sessionId, token);
  const again = await cluster.client(sessionId);
  t.equal(again.sessionId, sessionId);
  await cluster.stop();
  const stored = [...cluster.store.range({ start: '', end: '\uffff' })].map(([, value]) => Buffer.from(value));
  t.ok(
    stored.some((value) => value.includes('test')),
    'the record of the session is in the store',
  );
  t.notOk(
    stored.some((value) => value.includes(token)),
    'and does not tell its token',
  );
});

t.test('a record of a session without a token, of an earlier release, is resumed by nobody and ends', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const { sessionId } = client;
  await cluster.stop();
  const record = SessionRecord.encode({ clientName: 'of an earlier release' }).finish();
  await cluster.store.commit([{ key: keys.session(makeSessionId(sessionId)), value: record }]);
  await cluster.startMaster();
  cluster.tokens.set(sessionId, Buffer.alloc(0));
  const next = await cluster.client(sessionId);
  t.not(next.sessionId, sessionId);
  await cluster.wait(SESSION_TTL_MS + 2_000);
  t.equal((await next.status()).sessions, 0, 'both have ended: nobody was heard of');
  await cluster.stop();
});

t.test('a connection has one session: opening more takes the place of the first', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  for (let i = 0; i < 5; i++) await client.openSession(0);
  t.equal((await client.status()).sessions, 1);
  await cluster.stop();
});

t.test('an unlinked file lives while it is open, also over a restart of the master', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', 3);
  const lease = await client.lease(inode);
  cluster.write(lease, 'a');
  await client.publish(inode, 1);
  await client.unlink('file');
  await cluster.wait(2_000);
  await cluster.restartMaster('kill');
  await cluster.wait(20_000);
  const again = await cluster.client(client.sessionId);
  const opens = [{ inode, readers: 1, writers: 1 }];
  await cluster.until(again.peer.call(MASTER_METHODS.reclaim, { opens, done: true }));
  await cluster.wait(15_000);
  t.same((await cluster.words(again, inode))[0], ['a'], 'nobody reaped it before the session was back');
  await cluster.until(again.peer.call(MASTER_METHODS.close, { inode, readers: 1, writers: 1 }));
  await cluster.wait(15_000);
  await t.rejects(again.chunks(inode), { code: 'ESTALE' });
  t.equal(
    cluster.servers.reduce((sum, server) => sum + server.replicas.size, 0),
    0,
    'its chunks are collected',
  );
  const status = await again.status();
  t.equal(status.chunks, 0);
  t.equal(status.garbageChunks, 0);
  t.equal(status.inodes, 1);
  await cluster.stop();
});

t.test('P5: what a dead writer left behind the published size is cut, once no other writes', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const writer = await cluster.client();
  const inode = await writer.create('file', 3);
  const lease = await writer.lease(inode);
  for (const word of ['a', 'b', 'unpublished']) cluster.write(lease, word);
  await writer.publish(inode, 2);
  await writer.lease(inode, 3);
  const other = await cluster.client();
  const open = { caller: { uid: 0, gid: 0 }, inode, flags: 2 };
  await cluster.until(other.peer.call(MASTER_METHODS.open, open));
  writer.peer.close('dead');
  for (let i = 0; i < 40; i++) {
    await cluster.wait(2_000);
    await cluster.until(other.peer.call(MASTER_METHODS.keepSession, { ackedBelow: 1 }));
  }
  t.not((await other.chunks(inode, 3))[0]?.handle, 0, 'another writes still');
  await cluster.until(other.peer.call(MASTER_METHODS.close, { inode, writers: 1 }));
  await cluster.wait(3_000);
  t.equal((await other.chunks(inode, 3))[0]?.handle, 0);
  t.same(await cluster.words(other, inode), [
    ['a', 'b'],
    ['a', 'b'],
  ]);
  await cluster.stop();
});

t.test('P5: the writer and the master die together', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const writer = await cluster.client();
  const inode = await writer.create('file', 3);
  const lease = await writer.lease(inode);
  for (const word of ['a', 'unpublished']) cluster.write(lease, word);
  await writer.publish(inode, 1);
  await cluster.restartMaster('power');
  const reader = await cluster.client();
  for (let i = 0; i < 35; i++) {
    await cluster.wait(2_000);
    await cluster.until(reader.peer.call(MASTER_METHODS.keepSession, { ackedBelow: 1 }));
  }
  t.same(await cluster.words(reader, inode), [['a'], ['a']]);
  await cluster.stop();
});
