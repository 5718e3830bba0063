/** The processes behind targets: how they end, and what /proc tells of them. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';

const STOP_LIMIT_MS = 10_000;

/** Nanoseconds on a CPU by thread. */
export type CpuTimes = ReadonlyMap<string, number>;

/** Of all threads of these processes. To the nanosecond: /proc/PID/stat counts in ticks of 10 ms. */
export function cpuTimes(pids: readonly number[]): CpuTimes {
  const times = new Map<string, number>();
  for (const pid of pids) {
    for (const thread of threadsOf(pid)) times.set(thread, Number(read(pid, `task/${thread}/schedstat`).split(' ')[0]));
  }
  return times;
}

/** What threads that ended in between have used is not known. */
export function cpuSecondsBetween(before: CpuTimes, after: CpuTimes): number {
  let nanoseconds = 0;
  for (const [thread, time] of after) nanoseconds += Math.max(0, time - (before.get(thread) ?? 0));
  return nanoseconds / 1e9;
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return []; // it has ended
  }
}

export function memoryMiB(pid: number): { readonly resident: number; readonly peak: number } {
  const status = read(pid, 'status');
  const kibibytes = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
  return { resident: kibibytes('VmRSS') / 1024, peak: kibibytes('VmHWM') / 1024 };
}

function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return ''; // it has ended
  }
}

/** Resolves when it has ended, by itself, or by SIGTERM, or by SIGKILL ten seconds after that. */
export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const late = pause(STOP_LIMIT_MS, 'late', { ref: false });
  if ((await Promise.race([ended, late])) !== 'late') return;
  child.kill('SIGKILL');
  await ended;
}
