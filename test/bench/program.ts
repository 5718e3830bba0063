/** Programs of the bench that it runs as processes of their own, each with a time limit. */
import { spawn } from 'node:child_process';

/** A program that was killed and has not ended by then is stuck in the kernel, waiting for a mount. */
const KILL_GRACE_MS = 10_000;

/** A process was killed and did not end. */
export class StuckError extends Error {}

/**
 * What a program of ours prints. It is the head of a process group, which is killed as a whole when the time is over, as
 * it starts programs itself.
 */
export function programOutput(
  args: readonly string[],
  limitMs: number,
  signal: AbortSignal,
  input = '',
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { detached: true, stdio: ['pipe', 'pipe', 'pipe'] });
    let output = '';
    let said = '';
    let reason: string | undefined;
    let grace: NodeJS.Timeout | undefined;
    const kill = (why: string): void => {
      if (reason !== undefined) return;
      reason = why;
      if (child.pid !== undefined) killGroup(child.pid);
      grace = setTimeout(() => finish(new StuckError(`${why}, and cannot be killed`)), KILL_GRACE_MS);
    };
    const limit = setTimeout(() => kill(`it did not end within ${limitMs / 1000} s`), limitMs);
    const interrupted = (): void => kill('it was interrupted');
    signal.addEventListener('abort', interrupted, { once: true });
    const finish = (problem?: Error): void => {
      clearTimeout(limit);
      clearTimeout(grace);
      signal.removeEventListener('abort', interrupted);
      child.stdout.destroy();
      child.stderr.destroy();
      if (problem === undefined) resolve(output);
      else reject(problem);
    };
    child.stdout.on('data', (data: Buffer) => (output += data.toString()));
    child.stderr.on('data', (data: Buffer) => (said = (said + data.toString()).slice(-500)));
    child.on('error', finish);
    child.on('close', (code, endedBy) => {
      const problem = reason ?? (code === 0 ? undefined : said.trim() || `it ended with ${endedBy ?? code}`);
      finish(problem === undefined ? undefined : new Error(problem));
    });
    // One that ends without reading its input tells why otherwise.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
