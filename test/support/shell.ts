/** Commands of the shell on a mount, each in a process of its own with a time limit: a mount that hangs fails a test. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** Runs `script` with bash -e in `directory`, and returns what it printed. Its positional parameters are `args`. */
export async function shell(
  script: string,
  options: { directory?: string; args?: readonly string[]; timeoutMs?: number } = {},
): Promise<string> {
  try {
    const { stdout } = await execute('bash', ['-euo', 'pipefail', '-c', script, 'bash', ...(options.args ?? [])], {
      cwd: options.directory ?? '/',
      timeout: options.timeoutMs ?? 60_000,
      killSignal: 'SIGKILL',
      maxBuffer: 64 * 1024 * 1024,
      env: {
        ...process.env,
        LC_ALL: 'C',
        GIT_CONFIG_GLOBAL: '/dev/null',
        GIT_CONFIG_SYSTEM: '/dev/null',
        GIT_AUTHOR_NAME: 'test',
        GIT_AUTHOR_EMAIL: 'test@example.org',
        GIT_COMMITTER_NAME: 'test',
        GIT_COMMITTER_EMAIL: 'test@example.org',
      },
    });
    return stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    const said = [stdout, stderr].map((text) => text?.trim().slice(-2000)).filter(Boolean);
    throw new Error(`${script.trim()}\n${said.join('\n') || String(error)}`, { cause: error });
  }
}

/** Drops the kernel's caches, so that reads reach the mount again. Says false where this is not allowed. */
export async function dropCaches(): Promise<boolean> {
  if (process.getuid?.() !== 0) return false;
  await writeFile('/proc/sys/vm/drop_caches', '3');
  return true;
}

/** Why mounts cannot be tested here, or false. Continuous integration must not pass by skipping them. */
export const noMounts: string | false =
  existsSync('/dev/fuse') || process.env['CI'] === 'true' ? false : 'this machine has no /dev/fuse';
