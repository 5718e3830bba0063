/**
 * A cluster of real processes on ephemeral ports of loopback, in a directory of its own: what integration and mount tests
 * run. Processes are killed and started again by index; everything is gone when the test ends, also when it hangs.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import type { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import { connectTo } from '../../src/cli/compose.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { ClusterDirectory } from '../../src/cli/machine/cluster-directory.js';
import { startMount } from '../../src/cli/commands/mount.js';
import type { DriverName } from '../../src/cli/commands/mount.js';
import { runningIn, startInBackground, stopIn, waitUntilEnded } from '../../src/cli/machine/process-control.js';
import { readOrCreateSecret } from '../../src/cli/machine/secret.js';
import { mountedOn, unmountPath } from '../../src/fuse/mountpoint.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const START_TIMEOUT_MS = 20_000;
const STOP_GRACE_MS = 10_000;

export interface ProcessClusterOptions {
  /** Default 3. */
  readonly chunkservers?: number;
  /** Default 2. */
  readonly replicas?: number;
  /** Where chunkserver `index` keeps its chunks, if not in a directory of its own. */
  readonly diskOf?: (index: number) => string | undefined;
  /** Called before anything is started. */
  readonly prepare?: (directory: ClusterDirectory) => Promise<void>;
  /** Mount it. Default false. */
  readonly mount?: boolean;
  /** Of its mounts. Default: as `cairn mount` chooses. */
  readonly driver?: DriverName;
  /** After it everything is killed, so that whatever waits for it fails. Default 100 s. */
  readonly limitMs?: number;
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

type TapTest = Pick<Test, 'teardown' | 'comment'>;

export class ProcessCluster {
  private masterAddress = '127.0.0.1:0';
  private readonly addresses: string[];
  private readonly clients: ClusterFileSystem[] = [];
  private readonly mountpoints: string[] = [];
  private ended = false;

  private constructor(
    readonly directory: ClusterDirectory,
    private readonly options: ProcessClusterOptions & { readonly replicas: number },
    chunkservers: number,
  ) {
    this.addresses = Array.from({ length: chunkservers }, () => '127.0.0.1:0');
  }

  /** A running cluster, all chunkservers registered. It ends with the test. */
  static async start(t: TapTest, options: ProcessClusterOptions = {}): Promise<ProcessCluster> {
    const directory = new ClusterDirectory(await mkdtemp(join(tmpdir(), 'cairn-cluster-')));
    // Where mounts are recorded: not in this machine's own place.
    process.env['CAIRN_DATA'] = join(directory.path, 'default');
    // Its processes look through their structures at each change.
    process.env['CAIRN_AUDITS'] = '1';
    const cluster = new ProcessCluster(
      directory,
      { ...options, replicas: options.replicas ?? 2 },
      options.chunkservers ?? 3,
    );
    const limit = setTimeout(() => {
      t.comment('the time limit of the cluster is over: killing it');
      void cluster.end();
    }, options.limitMs ?? 100_000);
    t.teardown(async () => {
      clearTimeout(limit);
      await cluster.end();
    });
    await readOrCreateSecret(directory.secretFile);
    await options.prepare?.(directory);
    await cluster.startMaster();
    await Promise.all(cluster.addresses.map((_, i) => cluster.startChunkserver(i)));
    await cluster.waitForChunkservers();
    if (options.mount === true) await cluster.mount();
    return cluster;
  }

  /** host:port */
  get master(): string {
    return this.masterAddress;
  }
  get secretFile(): string {
    return this.directory.secretFile;
  }
  get chunkserverCount(): number {
    return this.addresses.length;
  }
  get chunkserverIndexes(): number[] {
    return [...this.addresses.keys()];
  }
  /** host:port of chunkserver `index`, counted from 0. */
  addressOf(index: number): string {
    return this.addresses[index] ?? '';
  }
  /** Of the first mount. */
  get mountpoint(): string {
    return this.mountpointOf(0);
  }
  mountpointOf(index: number): string {
    return join(this.directory.path, `mnt-${index}`);
  }

  async startMaster(): Promise<void> {
    const where = this.directory.master;
    const args = ['--listen', this.masterAddress, '--replicas', String(this.options.replicas)];
    this.masterAddress = await this.start(where, ['master', ...this.common(where), ...args]);
  }

  /** `index` counts from 0. The port stays the same over restarts. */
  async startChunkserver(index: number): Promise<void> {
    const where = this.directory.chunkserver(index + 1);
    const args = ['--master', this.masterAddress, '--listen', this.addresses[index] ?? '127.0.0.1:0'];
    const disk = this.options.diskOf?.(index);
    if (disk !== undefined) args.push('--disk', disk);
    this.addresses[index] = await this.start(where, ['chunkserver', ...this.common(where), ...args]);
  }

  stopMaster(): Promise<unknown> {
    return stopIn(this.directory.master, STOP_GRACE_MS);
  }
  stopChunkserver(index: number): Promise<unknown> {
    return stopIn(this.directory.chunkserver(index + 1), STOP_GRACE_MS);
  }
  killMaster(): Promise<void> {
    return kill(this.directory.master);
  }
  killChunkserver(index: number): Promise<void> {
    return kill(this.directory.chunkserver(index + 1));
  }
  killMount(index = 0): Promise<void> {
    return kill(this.mountDirectory(index));
  }

  /** Master and chunkservers, all at the same time; mounts stay. */
  async endAll(how: 'stop' | 'kill'): Promise<void> {
    const servers = this.chunkserverIndexes;
    if (how === 'kill') await Promise.all([this.killMaster(), ...servers.map((i) => this.killChunkserver(i))]);
    else await Promise.all([this.stopMaster(), ...servers.map((i) => this.stopChunkserver(i))]);
  }

  /** Starts master and chunkservers again. */
  async startAll(): Promise<void> {
    await this.startMaster();
    await Promise.all(this.chunkserverIndexes.map((i) => this.startChunkserver(i)));
    await this.waitForChunkservers();
  }

  /** Pids of all that runs, by directory name ('master', 'chunkserver-1', 'mount-0' …): for memory, say. */
  async pids(): Promise<Map<string, number>> {
    const directories = [this.directory.master, ...this.addresses.map((_, i) => this.directory.chunkserver(i + 1))];
    directories.push(...this.mountpoints.map((_, i) => this.mountDirectory(i)));
    const found = new Map<string, number>();
    for (const where of directories) {
      const pid = await runningIn(where);
      if (pid !== undefined) found.set(where.slice(this.directory.path.length + 1), pid);
    }
    return found;
  }

  /** Mounts in a process of its own; returns the mountpoint. Never use it with synchronous calls of node:fs. */
  async mount(index = 0, extra: readonly string[] = []): Promise<string> {
    const mountpoint = this.mountpointOf(index);
    if (!this.mountpoints.includes(mountpoint)) {
      await mkdir(mountpoint);
      this.mountpoints.push(mountpoint);
    }
    const driver = this.options.driver === undefined ? [] : ['--driver', this.options.driver];
    await startMount(mountpoint, this.mountDirectory(index), this.address(), [...driver, ...extra]);
    return mountpoint;
  }

  /** Unmounts, and waits until all is flushed. */
  async unmount(index = 0): Promise<void> {
    await unmountPath(this.mountpointOf(index), 'clean');
    await waitUntilEnded(this.mountDirectory(index), STOP_GRACE_MS);
  }

  /** A session of the client library in this process, closed with the cluster. */
  async client(tunables: Parameters<typeof connectTo>[2] = {}): Promise<ClusterFileSystem> {
    const client = await connectTo(this.address(), silentLogger, tunables);
    this.clients.push(client);
    return client;
  }

  /** Runs `cairn`, told which cluster by its environment. */
  cairn(...args: string[]): Promise<CommandResult> {
    const env = { ...process.env, CAIRN_MASTER: this.masterAddress, CAIRN_SECRET_FILE: this.secretFile };
    return runCairn(args, env);
  }

  /** What a process logged: 'master', 'chunkserver-1' …, 'mount-0' …. */
  log(name: string): Promise<string> {
    return readFile(join(this.directory.path, name, 'log'), 'utf8');
  }

  /** Until every chunk has its replicas again: what must come before the next failure, as two replicas survive one. */
  async waitUntilWhole(limitMs = 90_000): Promise<void> {
    const client = await this.client();
    const deadline = performance.now() + limitMs;
    while (!this.ended) {
      const { servers, underReplicatedChunks, unavailableChunks } = await client.status();
      const alive = servers.filter((server) => server.alive).length;
      if (alive === this.chunkserverCount && underReplicatedChunks + unavailableChunks === 0) break;
      if (performance.now() > deadline) {
        throw new Error(
          `not whole after ${limitMs} ms: ${alive} servers, ${underReplicatedChunks} chunks under-replicated, ${unavailableChunks} unavailable`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await client.close();
  }

  async waitForChunkservers(count = this.addresses.length): Promise<void> {
    const client = await this.client();
    while (!this.ended) {
      const { servers } = await client.status();
      if (servers.filter((server) => server.alive).length >= count) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  private async end(): Promise<void> {
    if (this.ended) return;
    this.ended = true;
    for (const mountpoint of this.mountpoints) {
      if ((await mountedOn(mountpoint)) !== undefined) await unmountPath(mountpoint, 'lazy');
    }
    for (const i of this.mountpoints.keys()) await this.killMount(i);
    await Promise.allSettled(this.clients.map((client) => client.close()));
    for (const i of this.addresses.keys()) await this.killChunkserver(i);
    await this.killMaster();
    await rm(this.directory.path, { recursive: true, force: true });
  }

  private mountDirectory(index: number): string {
    return join(this.directory.path, `mount-${index}`);
  }
  private address(): { master: string; secretFile: string } {
    return { master: this.masterAddress, secretFile: this.secretFile };
  }
  private common(where: string): string[] {
    return ['--data', where, '--secret', this.secretFile];
  }
  private start(where: string, args: readonly string[]): Promise<string> {
    return startInBackground(where, args, START_TIMEOUT_MS);
  }
}

async function kill(directory: string): Promise<void> {
  const pid = await runningIn(directory);
  if (pid === undefined) return;
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // it ended meanwhile
  }
  await waitUntilEnded(directory, STOP_GRACE_MS);
}

/** Runs the command `cairn` of this build. Its stdin is empty. */
export function runCairn(args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const options = { env, timeout: 90_000, maxBuffer: 64 * 1024 * 1024, killSignal: 'SIGKILL' } as const;
    const child = execFile(process.execPath, [MAIN, ...args], options, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number')
        reject(new Error(`cairn did not end by itself: ${error.message}`));
      else resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
    child.stdin?.end();
  });
}
