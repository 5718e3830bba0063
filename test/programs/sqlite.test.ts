/** SQLite: two processes insert into one database under its locks, on one mount and on two; a third is killed in the middle. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const TIMEOUT_MS = 120_000;
/** Rounds of one process; each is a transaction of two tables. */
const ROUNDS = 25;

/** Waits for locks as long as it takes, and stops at the first error. */
const SQLITE = 'sqlite3 -bail -cmd ".timeout 100000"';

const makeDatabase = (directory: string, mode: string): Promise<string> =>
  shell(
    `${SQLITE} db "pragma journal_mode=$1; create table entry(writer, number, content, unique(writer, number));
       create table counter(total); insert into counter values(0);"`,
    { directory, args: [mode] },
  );

/** The journal mode belongs to the connection, except WAL. */
const insertRounds = (directory: string, mode: string, writer: string, rounds = ROUNDS): Promise<string> =>
  shell(
    `{ echo "pragma journal_mode=$1;"
       for i in $(seq $3); do
         echo "begin immediate; insert into entry values('$2', $i, hex(randomblob(300)));
           update counter set total = total + 1; commit;"
       done; } | ${SQLITE} db`,
    { directory, args: [mode, writer, String(rounds)], timeoutMs: TIMEOUT_MS },
  );

async function holds(t: Test, directory: string, entries: number): Promise<void> {
  const found = await shell(
    `${SQLITE} db 'pragma integrity_check; select count(*), (select total from counter) from entry;'`,
    { directory },
  );
  t.equal(found, `ok\n${entries}|${entries}\n`);
}

async function twoWriters(t: Test, mode: string, a: string, b: string): Promise<void> {
  await makeDatabase(a, mode);
  await Promise.all([insertRounds(a, mode, 'one'), insertRounds(b, mode, 'other')]);
  await holds(t, a, 2 * ROUNDS);
  await holds(t, b, 2 * ROUNDS);
}

t.test('SQLite', { skip: needsKernelDriver('sqlite3') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const fresh = async (name: string): Promise<[string, string]> => {
    await shell('mkdir "$1"', { directory: a, args: [name] });
    return [join(a, name), join(b, name)];
  };

  for (const mode of ['delete', 'truncate', 'persist', 'wal']) {
    await t.test(`journal_mode=${mode}, two processes on one mount`, async (t) => {
      const [here] = await fresh(`one-${mode}`);
      await twoWriters(t, mode, here, here);
    });
  }

  // Not WAL: its index is shared memory, which SQLite itself says is for one machine.
  for (const mode of ['delete', 'truncate', 'persist']) {
    await t.test(`P2: journal_mode=${mode}, two processes on two mounts`, async (t) => {
      const [here, there] = await fresh(`two-${mode}`);
      await twoWriters(t, mode, here, there);
    });
  }

  for (const mode of ['delete', 'wal']) {
    await t.test(`journal_mode=${mode}, a writer is killed in the middle, another goes on`, async (t) => {
      const [here, there] = await fresh(`killed-${mode}`);
      await makeDatabase(here, mode);
      // Transactions larger than the page cache of SQLite: the database is written to before the commit.
      const script = `{ echo "pragma journal_mode=${mode}; pragma cache_size=10;"; for i in $(seq 1000); do
        echo "begin immediate; with recursive n(x) as (select 1 union all select x + 1 from n where x < 300)
          insert into entry select 'killed', $i * 1000 + x, hex(randomblob(300)) from n;
          update counter set total = total + 300; commit;"; done; } > killed.sql; exec sqlite3 db < killed.sql`;
      const writer = spawn('bash', ['-c', script], { cwd: here, stdio: 'ignore' });
      await pause(2500);
      writer.kill('SIGKILL');
      await once(writer, 'exit');
      // The first to open it rolls back what was not committed.
      const other = mode === 'wal' ? here : there;
      const total = Number(await shell(`${SQLITE} db 'select total from counter'`, { directory: other }));
      t.ok(total > 0 && total % 300 === 0, `${total} entries before the kill`);
      await holds(t, other, total);
      await insertRounds(other, mode, 'after', 3);
      await holds(t, here, total + 3);
    });
  }
});
