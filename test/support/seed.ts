/** The seed of a random test: from CAIRN_SEED, or a new one. It is printed, so that a failure can be run again. */
import { SeededRandom, SystemRandom } from '../../src/core/random.js';

export function testSeed(test: { comment(text: string): void }): number {
  const given = process.env['CAIRN_SEED'];
  const seed = given === undefined ? new SystemRandom().below(2 ** 31) : Number(given);
  test.comment(`CAIRN_SEED=${seed}`);
  return seed;
}

export function seededRandom(test: { comment(text: string): void }): SeededRandom {
  return new SeededRandom(testSeed(test));
}
