/** The drivers alone, each over a file system in memory that a process of its own serves: see memory-worker.ts. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { endProcess } from './processes.js';
import { profiledEnvironment } from './profiling.js';
import { attempt, type DriverName, type Started } from './target.js';

const execute = promisify(execFile);
const worker = fileURLToPath(new URL('memory-worker.js', import.meta.url));

export async function startMemory(driver: DriverName, profiles: string | undefined): Promise<Started> {
  const directory = await mkdtemp(join(tmpdir(), `cairn-bench-${driver}-`));
  // In a process group of its own: an interrupt from the terminal ends the bench, which unmounts it then.
  const child = spawn(process.execPath, [worker, driver, directory], {
    ...{ detached: true, stdio: ['ignore', 'pipe', 'inherit'], env: profiledEnvironment(profiles) },
  });
  const ended = once(child, 'exit');
  await Promise.race([
    once(child.stdout, 'data'),
    ended.then(() => Promise.reject(new Error(`the driver ${driver} cannot mount`))),
  ]);
  const label = driver === 'kernel' ? 'memory' : `memory-${driver}`;
  return {
    targets: [{ label, directory, processes: () => Promise.resolve(pidOf(child)) }],
    stop: async () => {
      await attempt(execute('umount', [directory]));
      await endProcess(child);
      await attempt(rmdir(directory));
    },
  };
}

const pidOf = ({ pid }: ChildProcess): number[] => (pid === undefined ? [] : [pid]);
