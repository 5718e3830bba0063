/** What programs see when another mount changes what the kernel was told to believe: never what was there before, once it is changed. */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { RecalledMount } from './recalled-mount.js';

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';

t.test('what is believed is asked once, and what another mount changes is seen at once', { skip }, async (t) => {
  const mount = await RecalledMount.start(t, 1);
  const at = (path: string): string => join(mount.path, path);
  await mount.change({ what: 'mkdir', path: '/d' });
  await mount.change({ what: 'create', path: '/d/f', text: 'one' });
  const look = (): unknown[] => [existsSync(at('d/missing')), statSync(at('d/f')).size, statSync(at('d')).mode & 0o777];
  t.same(look(), [false, 3, 0o755]);
  const before = await mount.counts();
  for (let i = 0; i < 100; i++) look();
  t.same(await mount.counts(), before, 'the kernel answers by itself');
  const fd = openSync(at('d/f'), 'r');
  const read = (): string => {
    const bytes = Buffer.alloc(100);
    return bytes.toString('latin1', 0, readSync(fd, bytes, 0, 100, 0));
  };
  t.equal(read(), 'one');

  await mount.change({ what: 'create', path: '/d/missing', text: 'x' });
  t.ok(existsSync(at('d/missing')));
  await mount.change({ what: 'write', path: '/d/f', text: 'three' });
  t.equal(statSync(at('d/f')).size, 5);
  t.equal(fstatSync(fd).size, 5);
  t.equal(read(), 'three');
  await mount.change({ what: 'chmod', path: '/d/f', value: 0o600 });
  t.equal(statSync(at('d/f')).mode & 0o777, 0o600);
  await mount.change({ what: 'replace', path: '/d/f', text: 'another' });
  t.equal(readFileSync(at('d/f'), 'utf8'), 'another');
  await mount.change({ what: 'unlink', path: '/d/f' });
  t.notOk(existsSync(at('d/f')));
  t.equal(read(), 'three');
  closeSync(fd);
  await mount.change({ what: 'rename', path: '/d/missing', to: '/d/f' });
  t.same(look(), [false, 1, 0o755]);
  await mount.change({ what: 'whole', path: '/d', text: 'whole' });
  t.equal(readFileSync(at('d/f'), 'utf8'), 'whole');
});
