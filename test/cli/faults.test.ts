/** What a process does about errors that nothing in it handled. */
import { spawnSync } from 'node:child_process';
import t from 'tap';

const at = (path: string): string => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).pathname);

function runs(fault: string): { status: number | null; stdout: string; stderr: string } {
  const program = `
    import { CairnError } from ${at('core/errors.js')};
    import { createLogger } from ${at('core/logger.js')};
    import { watchForFaults } from ${at('cli/service.js')};
    watchForFaults(createLogger({ role: 'test' }));
    setTimeout(() => console.log('lives'), 50);
    ${fault}`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

t.test("an unhandled error of a peer's disk is logged with its stack and ends nothing", (t) => {
  const { status, stdout, stderr } = runs(`void Promise.reject(new CairnError('EIO', 'the disk of another'));`);
  t.equal(status, 0);
  t.equal(stdout, 'lives\n');
  t.match(stderr, /the disk of another/);
  t.match(stderr, /"stack":"/);
  t.end();
});

t.test('a broken invariant ends the process, with its stack in the log', (t) => {
  for (const fault of [
    `void Promise.reject(new TypeError('not a function'));`,
    `setTimeout(() => { throw new CairnError('EIO', 'not a function'); }, 1);`,
  ]) {
    const { status, stdout, stderr } = runs(fault);
    t.equal(status, 1);
    t.equal(stdout, '');
    t.match(stderr, /"message":"ends by a fault|"msg":"ends by a fault/);
    t.match(stderr, /not a function/);
    t.match(stderr, /"stack":"/);
  }
  t.end();
});
