/** The bench's own cluster: started by scripts/up in a temporary directory, as a user would, and removed again. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { memoryMiB } from './processes.js';
import { profiledEnvironment } from './profiling.js';
import { attempt, type DriverName, type Started, type Target } from './target.js';

const execute = promisify(execFile);

export interface ProcessMemory {
  readonly name: string;
  readonly residentMiB: number;
  readonly peakMiB: number;
}

export class CairnCluster implements Started {
  readonly targets: Target[] = [];

  private constructor(
    private readonly repository: string,
    private readonly directory: string,
    private readonly first: DriverName,
    /** Where its processes write profiles of themselves, if anywhere. */
    private readonly profiles: string | undefined,
  ) {}

  /** Mounted with each of the drivers. */
  static async start(options: {
    readonly repository: string;
    readonly chunkservers: number;
    readonly replicas: number;
    readonly drivers: readonly DriverName[];
    readonly profiles: string | undefined;
  }): Promise<CairnCluster> {
    const { repository, chunkservers, replicas, profiles } = options;
    const [first = 'kernel', ...others] = options.drivers;
    const directory = await mkdtemp(join(tmpdir(), 'cairn-bench-'));
    const cluster = new CairnCluster(repository, directory, first, profiles);
    const counts = ['--chunkservers', String(chunkservers), '--replicas', String(replicas), '--driver', first];
    // Not the default port: a cluster may be running.
    const place = ['--data', cluster.data, '--port', String(await freePort())];
    try {
      await mkdir(cluster.mountpointOf(first));
      await cluster.script('up', cluster.mountpointOf(first), ...place, ...counts);
    } catch (error) {
      // `up` has stopped what it had started.
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
    cluster.addTarget(first);
    try {
      for (const driver of others) await cluster.mountWith(driver);
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /** Of every process of the cluster that runs. */
  async memory(): Promise<ProcessMemory[]> {
    return (await this.running()).map(({ name, pid }) => {
      const { resident, peak } = memoryMiB(pid);
      return { name, residentMiB: resident, peakMiB: peak };
    });
  }

  /** What a library client needs to join: the master's address and the secret. */
  async access(): Promise<{ master: string; secret: Buffer }> {
    const config = JSON.parse(await readFile(join(this.data, 'cluster.json'), 'utf8')) as { master: string };
    const secret = Buffer.from((await readFile(join(this.data, 'cluster.secret'), 'utf8')).trim(), 'hex');
    return { master: config.master, secret };
  }

  async stop(): Promise<void> {
    for (const { directory } of this.targets.slice(1)) await attempt(this.script('cairn', 'umount', directory));
    await attempt(this.script('down', this.mountpointOf(this.first), '--data', this.data));
    await attempt(rm(this.directory, { recursive: true, force: true }));
  }

  private get data(): string {
    return join(this.directory, 'data');
  }

  private mountpointOf(driver: DriverName): string {
    return join(this.directory, driver);
  }

  private dataOf(driver: DriverName): string {
    return driver === this.first ? 'mount' : `mount-${driver}`;
  }

  private addTarget(driver: DriverName): void {
    const otherMounts = (name: string): boolean => name.startsWith('mount') && name !== this.dataOf(driver);
    this.targets.push({
      label: driver === 'kernel' ? 'cairn' : `cairn-${driver}`,
      directory: this.mountpointOf(driver),
      processes: async () => (await this.running()).filter(({ name }) => !otherMounts(name)).map(({ pid }) => pid),
    });
  }

  private async mountWith(driver: DriverName): Promise<void> {
    await mkdir(this.mountpointOf(driver));
    const { master } = await this.access();
    const address = ['--master', master, '--secret', join(this.data, 'cluster.secret')];
    const place = ['--data', join(this.data, this.dataOf(driver)), this.mountpointOf(driver)];
    await this.script('cairn', 'mount', '--driver', driver, ...address, ...place);
    this.addTarget(driver);
  }

  /** By the pid files that scripts/up writes. */
  private async running(): Promise<{ name: string; pid: number }[]> {
    const found: { name: string; pid: number }[] = [];
    for (const name of (await readdir(this.data)).sort()) {
      const pid = await readFile(join(this.data, name, 'pid'), 'utf8').catch(() => undefined);
      if (pid !== undefined) found.push({ name, pid: Number(pid) });
    }
    return found;
  }

  private script(name: string, ...args: readonly string[]): Promise<unknown> {
    return execute(join(this.repository, 'scripts', name), args, { env: profiledEnvironment(this.profiles) });
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
