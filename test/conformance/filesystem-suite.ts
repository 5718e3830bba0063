/**
 * The conformance suite of `FileSystem`: what POSIX asks of every call, error by error, and the promises P2 and P5. It
 * runs over any implementation: the model, a simulated cluster, a real one.
 */
import assert from 'node:assert/strict';
import type { Test } from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../src/client/filesystem.js';
import { CaseContext, name } from './case.js';
import type { Deviation } from './deviations.js';
import type { ConformanceCase, ConformanceTarget } from './case.js';
import { aclCases } from './cases/acls.js';
import { coherenceCases } from './cases/coherence.js';
import { copyCases } from './cases/copies.js';
import { dataCases } from './cases/data.js';
import { directoryCases } from './cases/directories.js';
import { lockCases } from './cases/locks.js';
import { matrixCases } from './cases/matrix.js';
import { namespaceCases } from './cases/namespace.js';
import { openFileCases } from './cases/open-files.js';
import { permissionCases } from './cases/permissions.js';
import { ownershipCases } from './cases/ownership.js';
import { rangeCases } from './cases/ranges.js';
import { renameCases } from './cases/rename.js';
import { temporaryCases } from './cases/temporary.js';
import { timeCases } from './cases/times.js';
import { xattrCases } from './cases/xattrs.js';

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

export interface ConformanceHost extends ConformanceTarget {
  /** Runs the body of a case; a simulator turns its clock meanwhile. Default: just runs it. */
  run?(body: () => Promise<void>): Promise<void>;
  stop(): Promise<void>;
}

/** Runs every case as a subtest, all on one target, each in a directory of its own. What deviates is skipped. */
export async function fileSystemConformance(
  t: Test,
  start: () => Promise<ConformanceHost>,
  deviations: readonly Deviation[] = [],
): Promise<void> {
  const reasons = new Map(deviations.flatMap(({ reason, cases }) => cases.map((each) => [each, reason])));
  for (const each of reasons.keys()) {
    assert.ok(
      FILE_SYSTEM_CASES.some((testCase) => testCase.name === each),
      `no case is called '${each}'`,
    );
  }
  const host = await start();
  const run = host.run?.bind(host) ?? ((body: () => Promise<void>) => body());
  try {
    for (const [index, testCase] of FILE_SYSTEM_CASES.entries()) {
      const skip = reasons.get(testCase.name) ?? false;
      await t.test(testCase.name, { skip }, async () => {
        await run(() => runCase(host, testCase, `case-${index}`));
      });
    }
  } finally {
    await host.stop();
  }
}

export async function runCase(target: ConformanceTarget, testCase: ConformanceCase, place: string): Promise<void> {
  const { inode } = await target.fs.makeNode(ROOT_CREDENTIALS, ROOT_INODE, name(place), {
    kind: 'directory',
    mode: 0o777,
  });
  // mkdir(2) may be asked for a mode only through a umask; chmod is exact.
  await target.fs.setAttributes(ROOT_CREDENTIALS, inode, { mode: 0o777 });
  await testCase.run(
    new CaseContext(
      target.fs,
      target.other,
      inode,
      () => target.tick(),
      async () => target.forgetNames?.(),
      () => target.settle?.() ?? target.tick(),
    ),
  );
}
