/**
 * Directories of format 2, as a build of that format left them when all its processes were killed: every later build
 * starts on them and shows what was there. With CAIRN_FREEZE=FILE the test writes what this build leaves into that file: for the first
 * build of a new format, whose fixture is added beside the others. What is in test/fixtures is never written anew.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { describe, freeze, tablesOf, thaw } from './frozen-cluster.js';
import type { FrozenCluster } from './frozen-cluster.js';
import { story } from '../world/story.js';
import { World } from '../world/world.js';

const TABLES = 'ABCDFGIKLMNPRSTUWXZ';
/** By file, the tables of its time. */
const FIXTURES = {
  'cluster-format-2.json': 'BCDFGIKLMNPRSTUWXZ',
  'cluster-format-2-taken-appends.json': TABLES,
};
const pathOf = (name: string): string => fileURLToPath(new URL(`../../../../test/fixtures/${name}`, import.meta.url));
const OPTIONS = { chunkservers: 3, dataDirectories: 2 };

const target = process.env['CAIRN_FREEZE'];
if (target !== undefined) {
  story(
    'a cluster is frozen',
    async (s) => {
      if (s.world.seed !== 501) return;
      const frozen = await freeze(s);
      assert.equal(tablesOf(frozen), TABLES);
      writeFileSync(target, `${JSON.stringify(frozen, null, 1)}\n`);
    },
    OPTIONS,
  );
}

for (const [name, tables] of target === undefined ? Object.entries(FIXTURES) : []) {
  t.test(`a cluster of format 2 is started, shows what was in it, and heals: ${name}`, async (t) => {
    const frozen = JSON.parse(readFileSync(pathOf(name), 'utf8')) as FrozenCluster;
    t.equal(tablesOf(frozen), tables, 'each table has entries');
    const world = new World({ ...OPTIONS, seed: 1 });
    await world.runReported(async () => {
      await thaw(world, frozen);
      await world.startAll();
      const fs = await world.connect('client-3');
      assert.deepEqual(await describe(fs), frozen.tree);
      await world.sleep(200_000);
      assert.deepEqual(await describe(fs), frozen.tree);
      const { underReplicatedChunks, unavailableChunks, garbageChunks, inodes } = await fs.status();
      t.same([underReplicatedChunks, unavailableChunks, garbageChunks], [0, 0, 0], 'nothing is left to mend or delete');
      const seen = Object.values(frozen.tree).map(({ attributes }) => attributes);
      t.equal(inodes, new Set(seen).size, 'files without names are gone with the clients that had them open');
    });
    world.stop();
  });
}
