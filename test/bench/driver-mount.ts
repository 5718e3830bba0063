/** A mount of a file system in memory by one driver, in a process of its own: see driver-worker.ts. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { DriverName } from './cluster.js';

const execute = promisify(execFile);
const worker = join(dirname(fileURLToPath(import.meta.url)), 'driver-worker.js');

export class DriverMount {
  private constructor(
    readonly directory: string,
    private readonly child: ChildProcess,
  ) {}

  static async start(driver: DriverName): Promise<DriverMount> {
    const directory = await mkdtemp(join(tmpdir(), `cairn-bench-${driver}-`));
    const child = spawn(process.execPath, [worker, driver, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
    const mounted = once(child.stdout, 'data');
    await Promise.race([mounted, once(child, 'exit').then(() => Promise.reject(new Error(`${driver} cannot mount`)))]);
    return new DriverMount(directory, child);
  }

  async stop(): Promise<void> {
    const ended = this.child.exitCode === null ? once(this.child, 'exit') : Promise.resolve();
    await execute('umount', [this.directory]).catch((error: unknown) => console.error(`bench: ${String(error)}`));
    await ended;
    await rmdir(this.directory);
  }
}
