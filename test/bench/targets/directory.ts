/** Targets that are only directories: those that are named, and one of its own on the local disk. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Started, Target } from './target.js';

export function namedTarget(label: string, directory: string): Target {
  return { label, directory, processes: () => Promise.resolve([]) };
}

export async function startLocal(): Promise<Started> {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-bench-local-'));
  return {
    targets: [namedTarget('local', directory)],
    stop: () => rm(directory, { recursive: true, force: true }),
  };
}
