/** Operations on locks: tried from every mount, never waited for. A lock carries the data with it (P2). */
import assert from 'node:assert/strict';
import { pick } from '../../../src/core/random.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import type { LockKind, LockRequest } from '../../../src/filesystem/filesystem.js';
import { anyHandle } from './choices.js';
import { open } from './data.js';
import type { Handle, Tracked } from '../tracked.js';
import type { Work } from '../work.js';

const OWNERS = ['one', 'two'] as const;
const ENDS = [0, 9, 10, 99, 5000, MAX_LOCK_END] as const;

interface HeldLocks {
  readonly kind: LockKind;
  readonly owner: string;
}

/** Which owners of this mount may hold something on the file. */
function held(work: Work, node: Tracked): HeldLocks[] {
  return [...node.locks]
    .map((key) => JSON.parse(key) as HeldLocks & { mount: number })
    .filter(({ mount }) => mount === work.mount);
}

const keyOf = (work: Work, { kind, owner }: HeldLocks): string => JSON.stringify({ mount: work.mount, kind, owner });

export async function lock(work: Work): Promise<void> {
  const { random } = work;
  const handle = anyHandle(work, (each) => each.canRead && each.canWrite);
  if (handle === undefined) return open(work);
  const { node } = handle;
  const kind = pick(random, ['posix', 'flock'] as const);
  // The mount's number: the model tells clients apart, and so does the cluster.
  const owner = `${work.name} ${pick(random, OWNERS)}`;
  const choice = random.below(10);
  if (choice < 2 && node.locks.has(keyOf(work, { kind, owner }))) return release(work, node, { kind, owner });
  const [one, two] = [pick(random, ENDS), pick(random, ENDS)];
  const range =
    kind === 'flock' ? { start: 0, end: MAX_LOCK_END } : { start: Math.min(one, two), end: Math.max(one, two) };
  const type = choice < 6 ? 'read' : choice < 9 ? 'write' : 'unlock';
  const request: LockRequest = { kind, owner, type, pid: 1, ...range };
  const what = `${JSON.stringify(request)} on ${node.id}`;
  if (choice === 5 && kind === 'posix') {
    const found = await work.both(`get lock ${what}`, [node], ({ fs, id }) => fs.getLock(id(node), request));
    // Which of several is told is nobody's promise.
    if (found !== undefined)
      work.check(what, [node], () => assert.equal(found.real?.start === undefined, found.model?.start === undefined));
    return;
  }
  node.locks.add(keyOf(work, { kind, owner }));
  const done = await work.both(`lock ${what}`, [node], ({ fs, id }) => fs.setLock(id(node), request, { wait: false }));
  if (done !== undefined && type !== 'unlock' && !node.isDirtyElsewhere(work.mount)) node.openedOn(work.mount);
}

/** Gives up all that an owner holds, and with it what was written on this mount. */
async function release(work: Work, node: Tracked, { kind, owner }: HeldLocks): Promise<void> {
  node.locks.delete(keyOf(work, { kind, owner }));
  await work.both(`releases ${kind} locks of ${owner} on ${node.id}`, [node], ({ fs, id }) =>
    fs.releaseLocks(id(node), kind, owner),
  );
}

/** Locks end with the last handle of their mount. */
export async function releaseBefore(work: Work, handle: Handle): Promise<void> {
  const { node } = handle;
  if (work.handlesOf(node).some((each) => each !== handle && each.mount === handle.mount)) return;
  for (const each of held(work, node)) await release(work, node, each);
}
