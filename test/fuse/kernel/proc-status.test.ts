/** What /proc says of a caller: as it is now, however much it is. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import t from 'tap';
import { MAX_GROUPS } from '../../../src/core/limits.js';
import { parseGroups } from '../../../src/fuse/kernel/callers.js';
import { isBeingKilled, readStatus } from '../../../src/fuse/kernel/proc-status.js';

const skip = process.getuid?.() === 0 ? false : 'changing groups needs root';

t.test('P12: the groups of a caller are those that it has now; a caller that is gone has none', { skip }, async (t) => {
  const program = `
    require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
      const [first, count] = line.split(' ').map(Number);
      process.setgroups(Array.from({ length: count }, (_, i) => first + i));
      console.log('done');
    });`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const pid = child.pid ?? 0;
  for (const [first, count] of [
    [1000, 3],
    [2000, 0],
    [1_000_000, 1000],
    [2_000_000_000, 5000],
    [1000, 2],
  ] as const) {
    child.stdin.write(`${first} ${count}\n`);
    await answers.next();
    const status = readStatus(pid);
    const expected = Array.from({ length: Math.min(count, MAX_GROUPS) }, (_, i) => first + i);
    t.strictSame(parseGroups(status), expected, `${count} groups`);
    t.match(status, /^SigPnd:/m, 'the text is whole');
    t.equal(isBeingKilled(status), false);
  }
  child.kill('SIGKILL');
  await once(child, 'exit');
  t.equal(readStatus(pid), '');
});
