/** File descriptors: how they are shared, and that a process which has none left opens its files all the same. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { descriptorLimit, shareDescriptors } from '../../src/core/disk/descriptors.js';
import { MAX_CONNECTIONS, MAX_OPEN_CHUNK_FILES, MAX_UNPROVEN_CONNECTIONS } from '../../src/core/limits.js';

t.test('a share for each use, all together below the limit', (t) => {
  for (const limit of [1024, 2048, 4096, 20_000, 524_288]) {
    const { connections, unproven, chunkFiles } = shareDescriptors(limit);
    t.ok(connections + unproven + 2 * chunkFiles + 300 <= limit, `of ${limit}`);
    t.ok(Math.min(connections, unproven, chunkFiles) >= 64, `of ${limit}: ${connections}, ${unproven}, ${chunkFiles}`);
  }
  t.same(shareDescriptors(Infinity), {
    connections: MAX_CONNECTIONS,
    unproven: MAX_UNPROVEN_CONNECTIONS,
    chunkFiles: MAX_OPEN_CHUNK_FILES,
  });
  t.ok(descriptorLimit() > 0);
  t.end();
});

t.test('no descriptor left: the operation log goes on in new segments, and others are asked to let go', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-descriptors-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const at = (path: string): string => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).pathname);
  const program = `
    import { openSync, closeSync } from 'node:fs';
    import { SpareDescriptors } from ${at('core/disk/descriptors.js')};
    import { silentLogger } from ${at('core/logging/logger.js')};
    import { NodeDisk } from ${at('core/disk/node-disk.js')};
    import { OperationLog } from ${at('master/log/operation-log.js')};
    const strangers = [];
    let shed = 0;
    const disk = new NodeDisk(new SpareDescriptors(() => shed++));
    const failures = [];
    const log = await OperationLog.open({
      disk, directory: process.argv[1], logger: silentLogger, checkpoint: 0, segmentBytes: 4096,
      apply: () => undefined, onFailure: (error) => failures.push(error.message),
    });
    try { for (;;) strangers.push(openSync('/dev/null', 'r')); } catch {}
    const record = new Map([['k', Buffer.alloc(1000)]]);
    for (let i = 0; i < 200; i++) {
      log.append(1, record);
      await log.durable();
    }
    for (const fd of strangers) closeSync(fd);
    await log.close();
    console.log(JSON.stringify({ taken: strangers.length, shed, failures }));
  `;
  const shell = `ulimit -n 100; exec "$0" --input-type=module -e "$1" "$2"`;
  const { stdout, stderr } = spawnSync('bash', ['-c', shell, process.execPath, program, directory], {
    encoding: 'utf8',
    timeout: 50_000,
  });
  t.match(stdout, /^\{/, stderr);
  const { taken, shed, failures } = JSON.parse(stdout) as { taken: number; shed: number; failures: string[] };
  t.ok(taken > 20 && shed > 0, `${taken} descriptors were taken, ${shed} times others were asked`);
  t.same(failures, [], 'the log lives');
  t.end();
});
