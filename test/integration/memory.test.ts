/** P8: the memory of every process stays bounded while a large file goes through. */
import t from 'tap';
import { createHash } from 'node:crypto';
import { readFile as readLocalFile } from 'node:fs/promises';
import { ROOT_INODE } from '../../src/core/ids.js';
import { MIB } from '../../src/core/limits.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { content } from '../support/files.js';

const SIZE_BYTES = 768 * MIB;
const BOUND_BYTES = 300 * MIB;

t.test('P8: a large file is written and read back, and no process grows with it', async (t) => {
  const cluster = await ProcessCluster.start(t);
  const writer = await cluster.client();
  const block = content(5, MIB);
  const flags = { read: true, write: true };
  const { file, attributes } = await writer.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('large'), {
    mode: 0o644,
    flags,
  });
  const written = createHash('sha256');
  for (let at = 0; at < SIZE_BYTES; at += MIB) {
    block.writeUInt32LE(at / MIB, 0);
    written.update(block);
    await file.write(at, block);
  }
  await file.close();

  const reader = await cluster.client();
  const opened = await reader.open(ROOT_CREDENTIALS, attributes.inode, { read: true, write: false });
  t.equal(opened.attributes.size, SIZE_BYTES);
  const read = createHash('sha256');
  for (let at = 0; at < SIZE_BYTES;) {
    const part = await opened.file.read(at, MIB);
    if (part.length === 0) throw new Error(`the file ends at ${at}`);
    read.update(part);
    at += part.length;
  }
  await opened.file.close();
  t.equal(read.digest('hex'), written.digest('hex'), 'SHA-256');

  for (const [name, pid] of await cluster.pids()) {
    const status = await readLocalFile(`/proc/${pid}/status`, 'utf8');
    const peak = Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
    t.ok(peak < BOUND_BYTES, `${name}: ${Math.round(peak / MIB)} MiB at most`);
  }
  const own = process.resourceUsage().maxRSS * 1024;
  t.ok(own < BOUND_BYTES, `both clients together: ${Math.round(own / MIB)} MiB at most`);
});
