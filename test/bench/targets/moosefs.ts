/**
 * MooseFS with two copies, from the packages moosefs-master, moosefs-chunkserver, moosefs-client and moosefs-cli: master,
 * three chunkservers and a mount in a network namespace of their own, because its chunkservers do not take 127.0.0.1 as
 * an address, and its ports may be in use. Their priority is that of everything else: by default they take the highest, so that
 * others on a busy machine would slow down all targets but this one. All are children of the bench, in the foreground, with their logs in its temporary directory.
 */
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, readlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { endProcess } from './processes.js';
import { attempt, type Started, type Target } from './target.js';

const execute = promisify(execFile);

const PROGRAMS = ['mfsmaster', 'mfschunkserver', 'mfsmount', 'mfssetgoal', 'unshare', 'nsenter', 'ip'];
const EMPTY_METADATA = '/var/lib/mfs/metadata.mfs.empty';
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
const START_LIMIT_MS = 30_000;
/** Once it is connected, a chunkserver tells what it has. */
const REGISTRATION_MS = 1000;
/** Of the master, for chunkservers and for mounts. */
const CHUNKSERVER_PORT = 9420;
const CLIENT_PORT = 9421;
const ESTABLISHED = '01';
const LISTENING = '0A';
const MASTER = '10.77.0.1';
const CLIENT = '10.77.0.2';
const chunkserverAddress = (number: number): string => `10.77.0.${10 + number}`;

/** Whether the packages are there. */
export function moosefsIsInstalled(): boolean {
  return missingPrograms().length === 0;
}

function missingPrograms(): string[] {
  return PROGRAMS.filter((program) => {
    try {
      execFileSync('sh', ['-c', 'command -v "$1"', 'sh', program], { stdio: 'ignore', env: { PATH } });
      return false;
    } catch {
      return true;
    }
  });
}

export class MooseCluster implements Started {
  readonly targets: readonly Target[];
  private readonly children: ChildProcess[] = [];
  /** Whose namespace everything runs in. */
  private holder: ChildProcess | undefined;

  private constructor(private readonly directory: string) {
    const processes = (): Promise<number[]> => Promise.resolve(this.children.flatMap(({ pid }) => pid ?? []));
    this.targets = [{ label: 'moosefs', directory: this.mountpoint, processes }];
  }

  static async start(options: { readonly chunkservers: number; readonly replicas: number }): Promise<MooseCluster> {
    const missing = missingPrograms();
    if (missing.length > 0) throw new Error(`MooseFS cannot be started: ${missing.join(', ')} missing`);
    const cluster = new MooseCluster(await mkdtemp(join(tmpdir(), 'cairn-bench-moosefs-')));
    try {
      await cluster.begin(options.chunkservers, options.replicas);
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async stop(): Promise<void> {
    if (await isMounted(this.mountpoint)) await attempt(execute('umount', [this.mountpoint]));
    // The master last: it waits for nobody, but the others wait for it.
    for (const child of [...this.children.reverse(), this.holder]) if (child !== undefined) await endProcess(child);
    await attempt(rm(this.directory, { recursive: true, force: true }));
  }

  private get mountpoint(): string {
    return join(this.directory, 'mount');
  }

  private async begin(chunkservers: number, replicas: number): Promise<void> {
    await mkdir(this.mountpoint);
    await this.makeNamespace(chunkservers);
    await this.startMaster();
    await this.until('its master', async () => (await this.sockets(CLIENT_PORT, LISTENING)) > 0);
    for (let number = 1; number <= chunkservers; number++) await this.startChunkserver(number);
    this.startProcess('mount', ['mfsmount', '-f', this.mountpoint, '-H', MASTER, '-o', `mfsbind=${CLIENT},mfsnice=0`]);
    await this.until('its mount', () => isMounted(this.mountpoint));
    await this.until(
      'its chunkservers',
      async () => (await this.sockets(CHUNKSERVER_PORT, ESTABLISHED)) === chunkservers,
    );
    await pause(REGISTRATION_MS);
    await this.inside(['mfssetgoal', '-r', String(replicas), this.mountpoint]);
  }

  private async makeNamespace(chunkservers: number): Promise<void> {
    this.holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { detached: true, stdio: 'ignore', env: { PATH } });
    const own = await readNamespace('self');
    await this.until('its network', async () => {
      const other = await readNamespace(this.holder?.pid ?? 'self');
      return other !== undefined && other !== own;
    });
    await this.inside(['ip', 'link', 'set', 'lo', 'up']);
    const numbers = Array.from({ length: chunkservers }, (_, index) => index + 1);
    for (const address of [MASTER, CLIENT, ...numbers.map(chunkserverAddress)]) {
      await this.inside(['ip', 'address', 'add', `${address}/32`, 'dev', 'lo']);
    }
  }

  private async startMaster(): Promise<void> {
    const data = join(this.directory, 'master');
    await mkdir(data);
    await copyFile(EMPTY_METADATA, join(data, 'metadata.mfs'));
    await writeFile(join(data, 'exports'), '* / rw,alldirs,admin,maproot=0:0\n');
    await writeFile(join(data, 'topology'), '');
    const listen = ['MATOML', 'MATOCS', 'MATOCL'].map((port): [string, string] => [`${port}_LISTEN_HOST`, MASTER]);
    const configuration = await writeConfiguration(data, [
      ['EXPORTS_FILENAME', join(data, 'exports')],
      ['TOPOLOGY_FILENAME', join(data, 'topology')],
      ...listen,
    ]);
    this.startProcess('master', ['mfsmaster', '-f', '-c', configuration, 'start']);
  }

  private async startChunkserver(number: number): Promise<void> {
    const data = join(this.directory, `chunkserver-${number}`);
    await mkdir(join(data, 'chunks'), { recursive: true });
    await writeFile(join(data, 'disks'), `${join(data, 'chunks')}\n`);
    const configuration = await writeConfiguration(data, [
      ['HDD_CONF_FILENAME', join(data, 'disks')],
      ['HDD_LEAVE_SPACE_DEFAULT', '256MiB'],
      ['MASTER_HOST', MASTER],
      ['BIND_HOST', chunkserverAddress(number)],
      ['CSSERV_LISTEN_HOST', chunkserverAddress(number)],
    ]);
    this.startProcess(`chunkserver-${number}`, ['mfschunkserver', '-f', '-c', configuration, 'start']);
  }

  /**
   * `nsenter` becomes the program, so the child's pid is the program's. It has a process group of its own, so that an interrupt from the
   * terminal does not end it before it is unmounted.
   */
  private startProcess(name: string, command: readonly string[]): void {
    const log = openSync(join(this.directory, `${name}.log`), 'a');
    this.children.push(
      spawn('nsenter', this.entering(command), { detached: true, stdio: ['ignore', log, log], env: { PATH } }),
    );
    closeSync(log);
  }

  private async inside(command: readonly string[]): Promise<void> {
    await execute('nsenter', this.entering(command), { env: { PATH } });
  }

  private entering(command: readonly string[]): string[] {
    return [`--net=/proc/${this.holder?.pid}/ns/net`, ...command];
  }

  /** Sockets of the namespace by its table: `sl local_address remote_address st …`, in hexadecimal. */
  private async sockets(port: number, state: string): Promise<number> {
    const table = await readFile(`/proc/${this.holder?.pid}/net/tcp`, 'utf8');
    return table.split('\n').filter((line) => {
      const [, local, , actual] = line.trim().split(/\s+/);
      return Number.parseInt(local?.split(':')[1] ?? '', 16) === port && actual === state;
    }).length;
  }

  private async until(what: string, isSo: () => Promise<boolean>): Promise<void> {
    const limit = performance.now() + START_LIMIT_MS;
    while (!(await isSo())) {
      const ended = this.children.find(({ exitCode }) => exitCode !== null);
      if (ended !== undefined || performance.now() > limit) {
        throw new Error(`MooseFS did not start: ${what} is not there\n${await this.logs()}`);
      }
      await pause(100);
    }
  }

  /** What each process said last. */
  private async logs(): Promise<string> {
    const names = (await readdir(this.directory)).filter((name) => name.endsWith('.log'));
    const texts = await Promise.all(names.map((name) => readFile(join(this.directory, name), 'utf8')));
    return texts.map((text, index) => `${names[index]}: ${text.trim().slice(-500)}`).join('\n');
  }
}

async function writeConfiguration(data: string, settings: readonly (readonly [string, string])[]): Promise<string> {
  const own = [
    ['WORKING_USER', 'root'],
    ['WORKING_GROUP', 'root'],
    ['DATA_PATH', data],
    ['NICE_LEVEL', '0'],
  ] as const;
  const path = join(data, 'configuration');
  await writeFile(path, [...own, ...settings].map(([name, value]) => `${name} = ${value}\n`).join(''));
  return path;
}

/** The network namespace of a process; undefined when it is gone. */
async function readNamespace(pid: number | 'self'): Promise<string | undefined> {
  return readlink(`/proc/${pid}/ns/net`).catch(() => undefined);
}

async function isMounted(path: string): Promise<boolean> {
  return (await readFile('/proc/self/mounts', 'utf8')).includes(` ${path} `);
}
