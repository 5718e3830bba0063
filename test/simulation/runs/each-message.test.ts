/**
 * Short courses of events on two clients, run again and again: in each run another of their messages is lost, or its answer
 * is, or it is held back for longer than calls wait, or its server is killed. A seed strikes every twelfth message;
 * CAIRN_SEEDS=12 strikes all.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { changeNames } from '../workloads/names-course.js';
import { seeds } from '../world/seeds.js';
import type { Strike } from '../faults/struck-message.js';
import { COURSES, takeTurns } from '../workloads/turns.js';

t.setTimeout(0);

const SHARE = 12;
const NONE: Strike = { kind: 'none', lengthMs: 0 };
const STRIKES: readonly Strike[] = [
  { kind: 'lose', lengthMs: 0 },
  { kind: 'lose-answer', lengthMs: 0 },
  { kind: 'kill', lengthMs: 1_000 },
  { kind: 'hold', lengthMs: 15_000 },
];

for (const seed of seeds(1)) {
  for (const course of Object.keys(COURSES)) {
    t.test(`P1, P2, P5: each message of a course is struck: ${course}, seed ${seed}`, async () => {
      for (const strike of STRIKES) {
        const options = { seed, course, ...(strike.kind === 'hold' && { operationTimeoutMs: 8_000 }) };
        const count = await takeTurns({ ...options, message: -1, strike: NONE });
        for (let message = seed % SHARE; message < count; message += SHARE) {
          await takeTurns({ ...options, message, strike, straddles: message % 2 === 1 });
        }
      }
    });
  }

  t.test(`P6: each change of names takes effect once, whichever message is struck: seed ${seed}`, async () => {
    const trees: string[] = [];
    const count = await changeNames(seed, -1, NONE, (at, tree) => (trees[at] = tree));
    assert.equal(new Set(trees).size, trees.length - 3, 'all but three changes show');
    for (const strike of STRIKES) {
      for (let message = seed % SHARE; message < count; message += SHARE) {
        await changeNames(seed, message, strike, (at, tree) => assert.equal(tree, trees[at], `change ${at}`));
      }
    }
  });
}
