/**
 * The conformance suite of `FileSystem`: what POSIX asks of every call, error by error, and the promises P2 and P5. It
 * runs over any implementation:
 * the model, the master alone, a simulated cluster, a real one, mounts of both drivers, and a local directory as the control.
 */
import assert from 'node:assert/strict';
import type { Test } from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import type { InodeId } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { CaseContext, name } from './case.js';
import type { Deviation } from './deviations.js';
import type { ConformanceCase, ConformanceTarget } from './case.js';
import { aclCases } from './cases/rights/acls.js';
import { coherenceCases } from './cases/coherence.js';
import { copyCases } from './cases/data/copies.js';
import { dataCases } from './cases/data/data.js';
import { directoryCases } from './cases/names/directories.js';
import { lockCases } from './cases/locks.js';
import { matrixCases } from './cases/rights/matrix.js';
import { namespaceCases } from './cases/names/namespace.js';
import { openFileCases } from './cases/data/open-files.js';
import { permissionCases } from './cases/rights/permissions.js';
import { ownershipCases } from './cases/rights/ownership.js';
import { rangeCases } from './cases/data/ranges.js';
import { renameCases } from './cases/names/rename.js';
import { temporaryCases } from './cases/data/temporary.js';
import { timeCases } from './cases/times.js';
import { xattrCases } from './cases/xattrs.js';
import { extremeCases } from './cases/data/extremes.js';
import { pathCases } from './cases/names/paths.js';
import { systemCallCases } from './cases/system-calls.js';
import { SystemCallContext } from './system-call-case.js';
import type { SystemCallCase } from './system-call-case.js';
import { DirectoryFileSystem } from '../support/filesystems/directory-filesystem.js';

export type { ConformanceTarget } from './case.js';

export const FILE_SYSTEM_CASES: readonly ConformanceCase[] = [
  ...namespaceCases,
  ...renameCases,
  ...directoryCases,
  ...permissionCases,
  ...ownershipCases,
  ...timeCases,
  ...xattrCases,
  ...dataCases,
  ...openFileCases,
  ...coherenceCases,
  ...matrixCases,
  ...rangeCases,
  ...copyCases,
  ...aclCases,
  ...temporaryCases,
  ...lockCases,
];

/** What only system calls can ask. */
export const SYSTEM_CALL_CASES: readonly SystemCallCase[] = [...pathCases, ...systemCallCases, ...extremeCases];

export interface ConformanceHost extends ConformanceTarget {
  /** Runs the body of a case; a simulator turns its clock meanwhile. Default: just runs it. */
  run?(body: () => Promise<void>): Promise<void>;
  stop(): Promise<void>;
}

export interface ConformanceOptions {
  /** Cases that are skipped, and why. */
  readonly deviations?: readonly Deviation[];
  /** Default: all. */
  readonly only?: readonly ConformanceCase[];
  /** Begins the names of cases, and of their directories: to run on one place again. */
  readonly prefix?: string;
}

/** Runs every case as a subtest, all on one target, each in a directory of its own. */
export async function fileSystemConformance(
  t: Test,
  start: () => Promise<ConformanceHost>,
  { deviations = [], only, prefix }: ConformanceOptions = {},
): Promise<void> {
  const reasons = new Map(deviations.flatMap(({ reason, cases }) => cases.map((each) => [each, reason])));
  const names = new Set([...FILE_SYSTEM_CASES, ...SYSTEM_CALL_CASES].map((each) => each.name));
  for (const each of reasons.keys()) assert.ok(names.has(each), `no case is called '${each}'`);
  const host = await start();
  const run = host.run?.bind(host) ?? ((body: () => Promise<void>) => body());
  try {
    for (const [index, { name, body }] of bodiesOf(host, only).entries()) {
      const title = prefix === undefined ? name : `${prefix}: ${name}`;
      const place = `${prefix ?? 'case'}-${index}`;
      await t.test(title, { skip: reasons.get(name) ?? false }, () => run(() => body(place)));
    }
  } finally {
    await host.stop();
  }
}

interface CaseBody {
  readonly name: string;
  readonly body: (place: string) => Promise<void>;
}

function bodiesOf(host: ConformanceHost, only: readonly ConformanceCase[] | undefined): readonly CaseBody[] {
  const cases = (only ?? FILE_SYSTEM_CASES).map((each) => ({
    name: each.name,
    body: async (place: string) => each.run(new CaseContext(host, await makePlace(host, place))),
  }));
  const directory = host.fs;
  if (only !== undefined || !(directory instanceof DirectoryFileSystem)) return cases;
  const systemCalls = SYSTEM_CALL_CASES.map((each) => ({
    name: each.name,
    body: async (place: string) =>
      each.run(new SystemCallContext(host, await makePlace(host, place), directory, `${directory.path}/${place}`)),
  }));
  return [...cases, ...systemCalls];
}

async function makePlace(target: ConformanceTarget, place: string): Promise<InodeId> {
  const node = { kind: 'directory', mode: 0o777 } as const;
  const { inode } = await target.fs.makeNode(ROOT_CREDENTIALS, ROOT_INODE, name(place), node);
  // mkdir(2) may be asked for a mode only through a umask; chmod is exact.
  await target.fs.setAttributes(ROOT_CREDENTIALS, inode, { mode: 0o777 });
  return inode;
}
