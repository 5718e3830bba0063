/** Profiles of the processes that serve the targets: how they are asked for (profiler.ts makes them), and what they say. */
import { readdir, readFile } from 'node:fs/promises';
import type { Profiler } from 'node:inspector';
import { join } from 'node:path';

const PROFILE_VARIABLE = 'CAIRN_BENCH_PROFILES';
/** In a summary. */
const FUNCTIONS = 12;
/** What V8 writes for time without work, and for the program's own waiting. */
const IDLE = '(idle)';

/** The environment of a process that is to write a profile into `directory`, if there is one. */
export function profiledEnvironment(directory: string | undefined): NodeJS.ProcessEnv {
  if (directory === undefined) return process.env;
  const profiler = new URL('profiler.js', import.meta.url).href;
  const options = `${process.env['NODE_OPTIONS'] ?? ''} --import ${profiler}`.trim();
  return { ...process.env, NODE_OPTIONS: options, [PROFILE_VARIABLE]: directory };
}

export function profileDirectory(): string | undefined {
  return process.env[PROFILE_VARIABLE];
}

export interface ProfileSummary {
  readonly name: string;
  /** Without idle time. */
  readonly busySeconds: number;
  /** The functions that took most, themselves: share of the busy time, and `function file:line`. */
  readonly functions: readonly { readonly share: number; readonly place: string }[];
}

/** The long-running processes' profiles in `directory`, by name. Those of commands, which are short, are left out. */
export async function summarizeProfiles(directory: string): Promise<ProfileSummary[]> {
  const names = (await readdir(directory)).filter((name) =>
    /^(master|chunkserver|mount|memory-worker)-.*\.cpuprofile$/.test(name),
  );
  const summaries = names.sort().map(async (name) => {
    const profile = JSON.parse(await readFile(join(directory, name), 'utf8')) as Profiler.Profile;
    return { name: name.replace('.cpuprofile', ''), ...summarize(profile) };
  });
  return Promise.all(summaries);
}

export function summarize(profile: Profiler.Profile): Omit<ProfileSummary, 'name'> {
  const places = new Map(profile.nodes.map(({ id, callFrame }) => [id, placeOf(callFrame)]));
  const seconds = new Map<string, number>();
  profile.samples?.forEach((id, index) => {
    const place = places.get(id) ?? '';
    seconds.set(place, (seconds.get(place) ?? 0) + (profile.timeDeltas?.[index] ?? 0) / 1e6);
  });
  seconds.delete(IDLE);
  const busySeconds = [...seconds.values()].reduce((sum, value) => sum + value, 0);
  const functions = [...seconds]
    .sort(([, a], [, b]) => b - a)
    .slice(0, FUNCTIONS)
    .map(([place, value]) => ({ place, share: value / busySeconds }));
  return { busySeconds, functions };
}

function placeOf({ functionName, url, lineNumber }: Profiler.Profile['nodes'][number]['callFrame']): string {
  const name = functionName === '' ? '(anonymous)' : functionName;
  const file = /(?:dist\/|node_modules\/|node:).*$/.exec(url)?.[0];
  return file === undefined ? name : `${name} ${file.replace(/^dist\//, '')}:${lineNumber + 1}`;
}
