/** Logging on a full disk: the lines are lost, the process is not. */
import { openSync } from 'node:fs';
import { spawn } from 'node:child_process';
import t from 'tap';

const MODULE = new URL('../../src/core/logger.js', import.meta.url).href;

t.test('a log that cannot be written throws into nobody, and what is kept of it is bounded', async (t) => {
  const program = `
    import { createLogger } from ${JSON.stringify(MODULE)};
    const logger = createLogger({ role: 'test' });
    for (let i = 0; i < 30_000; i++) logger.info({ padding: 'x'.repeat(1_000) }, 'no space for this');
    process.stdout.write(String(process.memoryUsage().rss));
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', openSync('/dev/full', 'w')],
  });
  let output = '';
  child.stdout?.on('data', (data: Buffer) => (output += data.toString()));
  const code = await new Promise((resolve) => child.on('close', resolve));
  t.equal(code, 0);
  t.ok(Number(output) > 0 && Number(output) < 300 * 2 ** 20, `${output} bytes of memory`);
});
