import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { silentLogger } from '../../src/core/logging/logger.js';
import { isCairnMount, parseMountInfo, prepareMountpoint } from '../../src/fuse/mountpoint.js';

t.test('mountinfo: optional fields, escaped paths, lines that are none', (t) => {
  const entries = parseMountInfo(
    [
      '22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw',
      '42 22 0:39 / /mnt/with\\040space rw,nosuid,nodev - fuse.cairn cairn rw,user_id=0',
      'nonsense',
      '',
    ].join('\n'),
  );
  t.same(entries, [
    { mountpoint: '/', device: '254:0', type: 'ext4', source: '/dev/vda' },
    { mountpoint: '/mnt/with space', device: '0:39', type: 'fuse.cairn', source: 'cairn' },
  ]);
  t.same(
    entries.map((entry) => isCairnMount(entry)),
    [false, true],
  );
  t.end();
});

t.test('a mountpoint must exist, be a directory, and be empty', async (t) => {
  const directory = t.testdir();
  const path = join(directory, 'mount');
  await t.rejects(prepareMountpoint(path, silentLogger), { code: 'ENOENT', message: /mkdir/ });
  await mkdir(path);
  t.equal(await prepareMountpoint(path, silentLogger), path);
  await writeFile(join(path, 'file'), '');
  await t.rejects(prepareMountpoint(path, silentLogger), { code: 'ENOTEMPTY', message: /not empty/ });
  await t.rejects(prepareMountpoint(join(path, 'file'), silentLogger), { code: 'ENOTDIR' });
});
