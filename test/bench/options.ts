/** The command line of scripts/bench. */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { GROUPS } from './rows/index.js';
import { namedTarget } from './targets/directory.js';
import { defaultTargets, OWN_TARGETS, type OwnTarget } from './targets/index.js';
import type { Target } from './targets/target.js';

const HELP = `usage: scripts/bench [OPTION...] [NAME=DIRECTORY...]

Does the same work in several directories, in turns, and tells medians, and how many times as quick the first one is as
each other one. The targets that it makes itself, in the temporary directory (TMPDIR), and removes again:

  --cairn                a CairnFS cluster of this checkout, mounted with the kernel driver
  --cairn-fuse-native    the same cluster, mounted with fuse-native, whose locks ask nobody (docs/fuse-native.md)
  --moosefs              MooseFS, when its packages are installed
  --local                a local directory
  --memory               the kernel driver alone over a file system in memory
  --memory-fuse-native   fuse-native alone over a file system in memory

and each directory that is named, which may be a mount of anything. The first on the command line is the one that is
compared. Without a target: --cairn --moosefs --local --memory, of which MooseFS is left out when it is not installed.
Mounting with the kernel driver, dropping caches and MooseFS need root.

  --rounds N         rounds that count (default 3)
  --scale X          how much work, 1 is the full measurement (default 1); 0.02 takes minutes
  --only ROWS        names of rows or groups, or parts of them, separated by commas; what they need is done too, but not told
  --no-library       no metadata rates through the client library
  --chunkservers N   of the clusters (default 3)
  --replicas N       of the clusters (default 2)
  --limit SECONDS    for one row on one target; then it has failed (default 900)
  --cold-wait SECONDS  between dropping caches and a cold row, until mounts forget what they know (default 1.2)
  --json FILE        every figure of every round
  --markdown FILE    the tables
  --profile DIR      CPU profiles of the processes of CairnFS and of the drivers alone; the functions that take most are told

A row that fails is told, and the others go on; the exit code is 1 then. The rows:

${GROUPS.map(({ title, rows }) => `  ${title}: ${rows.map(({ name }) => name).join('; ')}`).join('\n')}

examples:
  scripts/bench
  scripts/bench --cairn moosefs=/mnt/mfs --only 'a large file,rename'
  scripts/bench --scale 0.05 --rounds 1 cairn=/mnt/cairn other=/var/tmp`;

export interface Options {
  readonly own: readonly OwnTarget[];
  readonly named: readonly Target[];
  /** Of all targets, as they were named: the first is compared with the others. */
  readonly labels: readonly string[];
  readonly rounds: number;
  readonly scale: number;
  /** Undefined: all. */
  readonly only: readonly string[] | undefined;
  readonly library: boolean;
  readonly chunkservers: number;
  readonly replicas: number;
  readonly limitMs: number;
  readonly coldWaitMs: number;
  readonly json: string | undefined;
  readonly markdown: string | undefined;
  readonly profiles: string | undefined;
}

/** Undefined when help was asked for, which is printed. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const { values, positionals, tokens } = parseArgs({
    tokens: true,
    args: [...args],
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      cairn: { type: 'boolean', default: false },
      'cairn-fuse-native': { type: 'boolean', default: false },
      moosefs: { type: 'boolean', default: false },
      local: { type: 'boolean', default: false },
      memory: { type: 'boolean', default: false },
      'memory-fuse-native': { type: 'boolean', default: false },
      rounds: { type: 'string', default: '3' },
      scale: { type: 'string', default: '1' },
      only: { type: 'string', multiple: true },
      'no-library': { type: 'boolean', default: false },
      chunkservers: { type: 'string', default: '3' },
      replicas: { type: 'string', default: '2' },
      limit: { type: 'string', default: '900' },
      'cold-wait': { type: 'string', default: '1.2' },
      json: { type: 'string' },
      markdown: { type: 'string' },
      profile: { type: 'string' },
    },
  });
  if (values.help) {
    console.log(HELP);
    return undefined;
  }
  const number = (name: 'rounds' | 'scale' | 'chunkservers' | 'replicas' | 'limit' | 'cold-wait'): number => {
    const value = Number(values[name]);
    if (!(value >= 0) || (value === 0 && name !== 'cold-wait')) throw new Error(`--${name} needs a number above 0`);
    return value;
  };
  const count = (name: 'rounds' | 'chunkservers' | 'replicas'): number => {
    if (!Number.isSafeInteger(number(name))) throw new Error(`--${name} needs a whole number`);
    return number(name);
  };
  const named = positionals.map(parseDirectory);
  const asked = OWN_TARGETS.filter((name) => values[name]);
  const own = asked.length + named.length === 0 ? defaultTargets() : asked;
  const ordered = tokens.flatMap((token) => {
    if (token.kind === 'positional') return parseDirectory(token.value).label;
    return token.kind === 'option' && own.some((name) => name === token.name) ? token.name : [];
  });
  const labels = ordered.length === 0 ? own : ordered;
  const twice = labels.find((label, index) => labels.indexOf(label) !== index);
  if (twice !== undefined) throw new Error(`two targets are called '${twice}'`);
  const only = values.only?.flatMap((text) => text.split(','));
  return {
    ...{ own, named, labels, only, library: !values['no-library'] },
    ...{ rounds: count('rounds'), scale: number('scale') },
    ...{ chunkservers: count('chunkservers'), replicas: count('replicas') },
    ...{ limitMs: 1000 * number('limit'), coldWaitMs: 1000 * number('cold-wait') },
    ...{ json: values.json, markdown: values.markdown },
    profiles: values.profile === undefined ? undefined : resolve(values.profile),
  };
}

function parseDirectory(text: string): Target {
  const at = text.indexOf('=');
  if (at < 1 || at === text.length - 1) throw new Error(`'${text}' is not NAME=DIRECTORY`);
  return namedTarget(text.slice(0, at), text.slice(at + 1));
}
