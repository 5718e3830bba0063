/** Another number of replicas is wanted than before. */
import assert from 'node:assert/strict';
import t from 'tap';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { pattern } from '../../../conformance/case.js';
import { seeds } from '../../world/seeds.js';
import { Story } from '../../world/story.js';
import { MASTER, World } from '../../world/world.js';

t.setTimeout(0);

const FILES = 12;

for (const [from, to] of [
  [2, 3],
  [3, 2],
  [1, 2],
  [3, 1],
] as const) {
  t.test(
    `P1, P11: --replicas ${from} becomes ${to}: what is there gets or loses replicas, and status tells`,
    async () => {
      for (const seed of seeds(2, 701)) {
        const world = new World({ seed, chunkservers: 4, wantedReplicas: from });
        await world.runReported(async () => {
          await world.startAll();
          const s = new Story(world, await world.connect('client-1'), await world.connect('client-2'));
          const files: OpenFile[] = [];
          for (let i = 0; i < FILES; i++) {
            const file = await s.create(`f-${i}`, pattern(100_000, i));
            await file.sync();
            await file.close();
            files.push(file);
          }
          await world.sleep(70_000);
          await world.kill(MASTER);
          world.wantedReplicas = to;
          await world.start(MASTER);
          const asked = await s.two.status();
          assert.equal(asked.wantedReplicas, to);
          await world.sleep(300);
          const during = await s.two.status();
          if (to > from) assert.ok(asked.underReplicatedChunks + asked.unavailableChunks > 0, 'told at once');
          // Killed in the middle of it, and of a copy or two.
          await world.kill(MASTER);
          await world.start(MASTER);
          await world.sleep(90_000);
          for (let i = 0; i < FILES; i++) {
            const file = files[i];
            assert.ok(file !== undefined);
            assert.equal((await s.holders(file)).length, to, `f-${i}`);
            await s.check(`f-${i}`, pattern(100_000, i));
          }
          const after = await s.two.status();
          assert.deepEqual(
            [after.underReplicatedChunks, after.surplusChunks, after.unexaminedChunks, after.unavailableChunks],
            [0, 0, 0, 0],
            JSON.stringify(during),
          );
          assert.equal(
            after.servers.reduce((sum, server) => sum + server.chunks, 0),
            FILES * to,
          );
        });
        world.stop();
      }
    },
  );
}

t.test(
  'P1: no replica is left out for being too many when those that are to stay do not reach each other',
  async () => {
    for (const seed of seeds(2, 711)) {
      const world = new World({ seed, chunkservers: 4, wantedReplicas: 3 });
      await world.runReported(async () => {
        await world.startAll();
        const s = new Story(world, await world.connect('client-1'), await world.connect('client-2'));
        const files: OpenFile[] = [];
        for (let i = 0; i < FILES; i++) {
          const file = await s.create(`f-${i}`, pattern(100_000, i));
          await file.sync();
          await file.close();
          files.push(file);
        }
        await world.sleep(70_000);
        await world.kill(MASTER);
        world.wantedReplicas = 2;
        for (const one of world.chunkservers) {
          for (const other of world.chunkservers) if (one < other) world.network.partition(one, other);
        }
        await world.start(MASTER);
        await world.sleep(60_000);
        for (const file of files) assert.ok((await s.holders(file)).length >= 2, 'those that are to stay');
        world.network.healAll();
        await world.sleep(400_000);
        for (const [i, file] of files.entries()) {
          assert.equal((await s.holders(file)).length, 2);
          await s.check(`f-${i}`, pattern(100_000, i));
        }
      });
      world.stop();
    }
  },
);
