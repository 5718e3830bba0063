/**
 * PostgreSQL with its data on a mount, fsync on: pgbench moves money about, and what it moved must add up, also after
 * the server is killed in the middle, and after the mount and the whole cluster were started again.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { eventually } from '../support/eventually.js';
import { shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const INSTALLED = '/usr/lib/postgresql';
const TIMEOUT_MS = 150_000;
const SCALE = 5;

/** Debian keeps the programs of each version apart. */
function programs(): string {
  const versions = existsSync(INSTALLED) ? readdirSync(INSTALLED).sort((a, b) => Number(b) - Number(a)) : [];
  const found = versions
    .map((version) => join(INSTALLED, version, 'bin'))
    .find((bin) => existsSync(join(bin, 'initdb')));
  if (found === undefined) throw new Error('PostgreSQL is missing: run scripts/install-dependencies --test');
  return found;
}

class Postgres {
  constructor(
    private readonly bin: string,
    private readonly data: string,
    /** Short, as the path of a socket must be. */
    private readonly socket: string,
  ) {}

  /** As the user that the server runs as: it refuses to run as root. */
  run(script: string): Promise<string> {
    return shell(
      `cd "$3"; exec setpriv --reuid postgres --regid postgres --init-groups \\
         env PATH="$1:$PATH" PGDATA="$2" PGHOST="$3" PGPORT=5432 PGDATABASE=postgres bash -euo pipefail -c "$4"`,
      { args: [this.bin, this.data, this.socket, script], timeoutMs: TIMEOUT_MS },
    );
  }

  async pid(): Promise<number> {
    return Number((await readFile(join(this.data, 'postmaster.pid'), 'utf8')).split('\n')[0]);
  }

  async isUp(): Promise<boolean> {
    return (await this.run('pg_isready -q && echo up || echo down')) === 'up\n';
  }

  /** Until the processes that a killed server left have ended, a new one does not start. */
  start(): Promise<void> {
    return eventually(
      'the server starts',
      async () =>
        (await this.run('pg_ctl -w -t 60 -l "$PGHOST/log" start > /dev/null 2>&1 && echo yes || echo no')) === 'yes\n',
      30_000,
    );
  }
}

/** Every transaction adds the same to an account, its teller, its branch and the history. */
async function addsUp(t: Test, postgres: Postgres): Promise<number> {
  const sums = await postgres.run(`psql -At -F ' ' -c 'select (select sum(abalance) from pgbench_accounts),
    (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches), sum(delta), count(*) from pgbench_history'`);
  const [accounts, tellers, branches, history, count] = sums.trim().split(' ').map(Number);
  t.same([tellers, branches, history], [accounts, accounts, accounts], `${count ?? 0} transactions add up`);
  return count ?? 0;
}

t.test('PostgreSQL', { skip: needsKernelDriver('setpriv') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  // The server's user must reach the mount.
  await chmod(cluster.directory.path, 0o711);
  const mount = await cluster.mount();
  const socket = await mkdtemp(join(tmpdir(), 'cairn-pg-'));
  const postgres = new Postgres(programs(), join(mount, 'data'), socket);
  t.teardown(async () => {
    await postgres.run('pg_ctl -m immediate stop || true').catch(() => undefined);
    await rm(socket, { recursive: true, force: true });
  });

  await t.test('initdb with checksums, pgbench', async (t) => {
    await shell('mkdir -m 700 "$1"; chown postgres "$1" "$2"', { args: [join(mount, 'data'), socket] });
    await postgres.run(`initdb -k -A trust --locale=C -E UTF8 > /dev/null
      printf "listen_addresses = ''\\nunix_socket_directories = '%s'\\nmax_connections = 20\\n" "$PGHOST" >> "$PGDATA/postgresql.conf"`);
    await postgres.start();
    t.equal(await postgres.run('psql -At -c "show fsync" -c "show data_checksums"'), 'on\non\n');
    await postgres.run(`pgbench -q -i -s ${SCALE} 2>&1`);
    const said = await postgres.run('pgbench -n -c 4 -j 2 -T 6 2>&1');
    t.match(said, /number of failed transactions: 0 /);
    t.comment(
      said
        .split('\n')
        .filter((line) => /tps|latency average/.test(line))
        .join(', '),
    );
    t.ok((await addsUp(t, postgres)) > 50);
  });

  await t.test('P1: kill -9 of the server under load: it recovers, what it confirmed is there', async (t) => {
    const before = await addsUp(t, postgres);
    const load = postgres.run('pgbench -n -c 4 -j 2 -T 60 --progress=1 2>&1 || true');
    await pause(3500);
    process.kill(await postgres.pid(), 'SIGKILL');
    const said = await load;
    await postgres.start();
    const count = await addsUp(t, postgres);
    t.ok(count > before, `${count - before} transactions before the kill`);
    // The progress lines say how many transactions a second were confirmed.
    const confirmed = [...said.matchAll(/progress: ([\d.]+) s, ([\d.]+) tps/g)].map(
      ([, , tps]) => Math.floor(Number(tps)) - 1,
    );
    t.ok(confirmed.length > 0);
    t.ok(count - before >= confirmed.reduce((a, b) => a + b, 0), 'no confirmed transaction is lost');
    t.match(await readFile(join(socket, 'log'), 'utf8'), /database system was not properly shut down/);
  });

  await t.test('P1: the mount is killed under load: all that was confirmed is on the next mount', async (t) => {
    const before = await addsUp(t, postgres);
    const load = spawn(
      'bash',
      [
        '-c',
        'for i in $(seq 1000); do psql -qAt -c "insert into pgbench_history(tid, bid, aid, delta) values (0, 0, $0, 0)" && echo $i >> "$PGHOST/confirmed"; done',
        '0',
      ],
      {
        env: {
          ...process.env,
          PATH: `${programs()}:${process.env['PATH'] ?? ''}`,
          PGHOST: socket,
          PGUSER: 'postgres',
          PGDATABASE: 'postgres',
        },
        stdio: 'ignore',
      },
    );
    await pause(3000);
    await cluster.killMount();
    load.kill('SIGKILL');
    const confirmed = (await readFile(join(socket, 'confirmed'), 'utf8')).trim().split('\n').length;
    await eventually('the server ends without its files', async () => !(await postgres.isUp()), 30_000);
    await cluster.mount();
    await postgres.start();
    const count = (await addsUp(t, postgres)) - before;
    t.ok(confirmed > 5 && count >= confirmed && count <= confirmed + 1, `${confirmed} confirmed, ${count} there`);
  });

  await t.test('indexes and checksums are sound, also after a restart of everything', async (t) => {
    await postgres.run('pg_amcheck --install-missing --heapallindexed');
    await postgres.run('pg_ctl -m fast -w stop > /dev/null');
    await cluster.unmount();
    await cluster.endAll('stop');
    await cluster.startAll();
    await cluster.mount();
    t.match(await postgres.run('pg_checksums --check'), /Bad checksums:\s+0\n/);
    await postgres.start();
    t.ok((await addsUp(t, postgres)) > 0);
    await postgres.run('pg_ctl -m fast -w stop > /dev/null');
  });
});
