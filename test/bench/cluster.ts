/** The bench's own cluster: started by scripts/up in a temporary directory, as a user would, and removed again. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export interface ProcessMemory {
  readonly name: string;
  readonly residentMiB: number;
  readonly peakMiB: number;
}

export type DriverName = 'kernel' | 'fuse-native';

export class BenchCluster {
  /** By driver; the first is the one that `up` made. */
  readonly mounts = new Map<DriverName, string>();

  private constructor(
    private readonly repository: string,
    private readonly directory: string,
  ) {}

  static async start(options: {
    repository: string;
    chunkservers: number;
    replicas: number;
    drivers: readonly DriverName[];
  }): Promise<BenchCluster> {
    const [first = 'kernel', ...others] = options.drivers;
    const directory = await mkdtemp(join(tmpdir(), 'cairn-bench-'));
    const cluster = new BenchCluster(options.repository, directory);
    await mkdir(cluster.mountpoint);
    const counts = ['--chunkservers', String(options.chunkservers), '--replicas', String(options.replicas)];
    // Not the default port: a cluster may be running.
    counts.push('--port', String(await freePort()), '--driver', first);
    try {
      await execute(join(options.repository, 'scripts/up'), [cluster.mountpoint, '--data', cluster.data, ...counts]);
    } catch (error) {
      // `up` has stopped what it had started.
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
    cluster.mounts.set(first, cluster.mountpoint);
    try {
      for (const driver of others) await cluster.mountWith(driver);
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  private get mountpoint(): string {
    return join(this.directory, 'mount');
  }

  private async mountWith(driver: DriverName): Promise<void> {
    const mountpoint = join(this.directory, driver);
    await mkdir(mountpoint);
    const { master } = await this.access();
    const address = ['--master', master, '--secret', join(this.data, 'cluster.secret')];
    const place = ['--data', join(this.data, `mount-${driver}`), mountpoint];
    await execute(join(this.repository, 'scripts/cairn'), ['mount', '--driver', driver, ...address, ...place]);
    this.mounts.set(driver, mountpoint);
  }

  private get data(): string {
    return join(this.directory, 'data');
  }

  /** Of every process of the cluster that runs, by the pid files that scripts/up writes. */
  async memory(): Promise<ProcessMemory[]> {
    const found: ProcessMemory[] = [];
    for (const name of (await readdir(this.data)).sort()) {
      const pid = await readFile(join(this.data, name, 'pid'), 'utf8').catch(() => undefined);
      if (pid === undefined) continue;
      const status = await readFile(`/proc/${pid.trim()}/status`, 'utf8').catch(() => '');
      const kibibytes = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
      found.push({ name, residentMiB: kibibytes('VmRSS') / 1024, peakMiB: kibibytes('VmHWM') / 1024 });
    }
    return found;
  }

  /** What a library client needs to join: the master's address and the secret. */
  async access(): Promise<{ master: string; secret: Buffer }> {
    const config = JSON.parse(await readFile(join(this.data, 'cluster.json'), 'utf8')) as { master: string };
    const secret = Buffer.from((await readFile(join(this.data, 'cluster.secret'), 'utf8')).trim(), 'hex');
    return { master: config.master, secret };
  }

  async stop(): Promise<void> {
    for (const mountpoint of this.mounts.values()) {
      if (mountpoint !== this.mountpoint) await this.end('cairn', ['umount', mountpoint]);
    }
    await this.end('down', [this.mountpoint, '--data', this.data]);
    await rm(this.directory, { recursive: true, force: true });
  }

  private async end(script: string, args: readonly string[]): Promise<void> {
    await execute(join(this.repository, 'scripts', script), args).catch((error: unknown) =>
      console.error(`bench: ${error instanceof Error ? error.message : String(error)}`),
    );
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => {
        if (address !== null && typeof address === 'object') resolve(address.port);
        else reject(new Error('no port is free'));
      });
    });
  });
}
