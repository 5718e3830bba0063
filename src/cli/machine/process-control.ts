/**
 * Background processes of `cairn`: starting one and waiting until it serves, and finding and stopping it later. Each has
 * a directory with its `pid` and `log`. A pid is only believed, and only signalled, when /proc says that it is a `cairn`
 * with that directory: numbers are used again.
 */
import { spawn } from 'node:child_process';
import { constants, open, readFile, readlink, stat, unlink, type FileHandle } from 'node:fs/promises';
import { join, resolve as resolvePath } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep, SystemClock } from '../../core/clock.js';
import { asCairnError, CairnError, hasCode, isErrorCode } from '../../core/errors.js';
import { tryLock } from '../../core/disk/file-lock.js';
import { makeDirectories } from './make-directories.js';

const MAIN = fileURLToPath(new URL('../main.js', import.meta.url));
const POLL_MS = 50;
const LOG_LINES_SHOWN = 5;
const LOG_TAIL_BYTES = 16 * 1024;
const clock = new SystemClock();

/** What a process tells its parent, once, over the IPC channel. */
export interface ReadyMessage {
  readonly ready: true;
  /** host:port where it serves; '' for a mount. */
  readonly address: string;
}

/** What a process leaves in its directory is for its user only. */
const PRIVATE_MODE = 0o600;

const pidFile = (directory: string): string => join(directory, 'pid');
export const logFile = (directory: string): string => join(directory, 'log');

/** The pid of the process that runs in `directory`, or undefined. */
export async function runningIn(directory: string): Promise<number | undefined> {
  const text = await readIfThere(pidFile(directory));
  const pid = text === undefined ? NaN : Number(text.trim());
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  return (await isCairnIn(pid, directory)) ? pid : undefined;
}

async function isCairnIn(pid: number, directory: string): Promise<boolean> {
  const words = (await readIfThere(`/proc/${pid}/cmdline`))?.split('\0') ?? [];
  if (!words.some((word) => word.endsWith('/cli/main.js') || word.endsWith('/cairn'))) return false;
  if (await isZombie(pid)) return false;
  const cwd = await workingDirectory(pid);
  return words.some((word, i) => word === '--data' && resolvePath(cwd, words[i + 1] ?? '') === directory);
}

async function workingDirectory(pid: number): Promise<string> {
  try {
    return await readlink(`/proc/${pid}/cwd`);
  } catch {
    return '/'; // ended meanwhile, or another user's: an absolute path needs none
  }
}

async function isZombie(pid: number): Promise<boolean> {
  const status = await readIfThere(`/proc/${pid}/stat`);
  return status === undefined || /\) [ZX] /.test(status);
}

/** The pid files of the directories that this process has, open and locked. */
const claimed = new Map<string, FileHandle>();

/**
 * Takes `directory` for this process; fails with EBUSY when another one runs there, by whatever name it knows the directory
 * and in whatever container: two masters would ruin one store.
 */
export async function claimDirectory(directory: string): Promise<void> {
  if (claimed.has(directory)) return;
  await makeDirectories(directory);
  const inUse = (by: string): CairnError =>
    new CairnError('EBUSY', `${by} uses ${directory} already: stop it, or choose another --data`);
  const other = await runningIn(directory);
  if (other !== undefined && other !== process.pid) throw inUse(`process ${other}`);
  const path = pidFile(directory);
  try {
    const file = await openLocked(path);
    if (file === undefined) throw inUse('another process');
    claimed.set(directory, file);
    await file.chmod(PRIVATE_MODE); // of an earlier version
    // Over what a killed process left: that needs no space, which there may be none of.
    const { bytesWritten } = await file.write(`${process.pid}\n`, 0);
    await file.truncate(bytesWritten);
  } catch (error) {
    const { code, message } = asCairnError(error);
    if (code === 'EBUSY') throw error;
    throw new CairnError(code, `cannot write ${path}: ${message}`, { cause: error });
  }
}

/** The file at `path`, locked; undefined when another process has it. */
async function openLocked(path: string): Promise<FileHandle | undefined> {
  for (;;) {
    const file = await open(path, constants.O_RDWR | constants.O_CREAT, PRIVATE_MODE);
    try {
      if (!(await tryLock(file.fd))) {
        await file.close();
        return undefined;
      }
      // Who had it may have removed it meanwhile: then another file has the name, and others lock that.
      const named = await stat(path).catch((error: unknown) => {
        if (asCairnError(error).code !== 'ENOENT') throw error;
        return undefined;
      });
      const mine = await file.stat();
      if (named?.ino === mine.ino && named.dev === mine.dev) return file;
    } catch (error) {
      await file.close();
      throw error;
    }
    await file.close();
  }
}

export async function leaveDirectory(directory: string): Promise<void> {
  if ((await readIfThere(pidFile(directory)))?.trim() === String(process.pid)) await unlink(pidFile(directory));
  await claimed.get(directory)?.close();
  claimed.delete(directory);
}

/** Tells the parent, if it waits, that this process serves. */
export function tellReady(address: string): void {
  if (process.send === undefined) return;
  const message: ReadyMessage = { ready: true, address };
  process.send(message, undefined, undefined, () => {
    if (process.connected) process.disconnect();
  });
}

/**
 * Starts `cairn` with `args` in the background, its output going to `directory`/log, and waits until it serves. Returns
 * its address. When it ends instead, or says nothing for `timeoutMs`, it is stopped, and the error has the end of its log.
 */
export async function startInBackground(
  directory: string,
  args: readonly string[],
  timeoutMs: number,
): Promise<string> {
  await makeDirectories(directory);
  const log = await open(logFile(directory), 'a', PRIVATE_MODE);
  await log.chmod(PRIVATE_MODE); // of an earlier version
  const logStart = (await log.stat()).size;
  const child = spawn(process.execPath, [MAIN, ...args], {
    detached: true,
    cwd: '/',
    stdio: ['ignore', log.fd, log.fd, 'ipc'],
  });
  try {
    return await new Promise<string>((resolve, reject) => {
      const timer = clock.setTimer(timeoutMs, () =>
        reject(new CairnError('TIMEOUT', `no answer within ${timeoutMs} ms`)),
      );
      const settle = (action: () => void): void => {
        timer.cancel();
        action();
      };
      child.on('error', (error) => settle(() => reject(error)));
      child.on('exit', (code, signal) => {
        settle(() => reject(new CairnError('UNAVAILABLE', `it ended with ${signal ?? `exit code ${String(code)}`}`)));
      });
      child.on('message', (message) => settle(() => resolve((message as ReadyMessage).address)));
    });
  } catch (error) {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    const tail = await lastLines(directory, logStart);
    const command = `cairn ${args[0] ?? ''}`;
    const last = lastWords(command, tail);
    const { code, message } = last ?? asCairnError(error);
    const shown = last === undefined ? `: ${tail.join(' | ') || 'nothing logged'}` : '';
    throw new CairnError(code, `${command} did not start: ${message}; log ${logFile(directory)}${shown}`);
  } finally {
    await log.close();
    child.removeAllListeners();
    if (child.connected) child.disconnect();
    child.unref();
  }
}

/** What a command said when it gave up, as `describe` puts it, with its code where there is one. */
function lastWords(command: string, lines: readonly string[]): Pick<CairnError, 'code' | 'message'> | undefined {
  const text = lines.findLast((line) => line.startsWith(`${command}: `))?.slice(command.length + 2);
  if (text === undefined) return undefined;
  const [, message, code] = /^(.*) \(([A-Z0-9_]+)\)$/.exec(text) ?? [];
  if (message === undefined || code === undefined || !isErrorCode(code)) return { code: 'UNAVAILABLE', message: text };
  return { code, message };
}

/** The last lines of a log behind `start`, the plain message of each. */
async function lastLines(directory: string, start: number): Promise<string[]> {
  const file = await open(logFile(directory), 'r');
  try {
    const { size } = await file.stat();
    const from = Math.max(start, size - LOG_TAIL_BYTES);
    const bytes = Buffer.alloc(Math.max(0, size - from));
    await file.read(bytes, 0, bytes.length, from);
    return bytes.toString('utf8').split('\n').filter(Boolean).slice(-LOG_LINES_SHOWN);
  } finally {
    await file.close();
  }
}

/** Waits until nothing of `cairn` runs in `directory`; false after `timeoutMs`. */
export async function waitUntilEnded(directory: string, timeoutMs: number): Promise<boolean> {
  const deadline = clock.monotonicMs() + timeoutMs;
  while ((await runningIn(directory)) !== undefined) {
    if (clock.monotonicMs() >= deadline) return false;
    await sleep(clock, POLL_MS);
  }
  return true;
}

/** SIGTERM, and SIGKILL when that did not end it in time. Returns whether there was something to stop. */
export async function stopIn(directory: string, graceMs: number): Promise<'stopped' | 'killed' | 'not running'> {
  const pid = await runningIn(directory);
  if (pid === undefined) return 'not running';
  signal(pid, 'SIGTERM');
  if (await waitUntilEnded(directory, graceMs)) return 'stopped';
  signal(pid, 'SIGKILL');
  await waitUntilEnded(directory, graceMs);
  return 'killed';
}

/** SIGTERM to what runs in `directory`, if anything does. */
export async function tellToStop(directory: string): Promise<void> {
  const pid = await runningIn(directory);
  if (pid !== undefined) signal(pid, 'SIGTERM');
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (!isNoSuchProcess(error)) throw error; // it ended meanwhile
  }
}

const isNoSuchProcess = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ESRCH';

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    // A process that ends while its files in /proc are read gives ESRCH.
    if (hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR') || isNoSuchProcess(error)) return undefined;
    throw error;
  }
}
