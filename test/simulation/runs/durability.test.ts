/**
 * P1: what was synced survives power loss, of the master, of chunkservers, of all at once. Between the rounds everything
 * that counts is synced; beside it a client works without ever syncing, so that there is always something to lose.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { pick, SeededRandom } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { FileSystem } from '../../../src/filesystem/filesystem.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { equalBytes } from '../../conformance/case.js';
import { compareTrees } from '../judges/final-check.js';
import { seeds } from '../world/seeds.js';
import { bringBack, makeActors, settleAndCheck } from '../workloads/workload.js';
import { MASTER, World } from '../world/world.js';

const ROUNDS = 4;
const OPERATIONS = 15;

t.setTimeout(0);

/** Works in /careless without syncing, and does not mind errors. */
async function careless(world: World, fs: FileSystem, random: SeededRandom, state: { isStopped: boolean }) {
  const node = { kind: 'directory', mode: 0o755 } as const;
  const { inode } = await fs.makeNode(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('careless'), node);
  while (!state.isStopped) {
    await world.sleep(random.below(50));
    const name = Buffer.from(`f${random.below(5)}`);
    const work = async (): Promise<void> => {
      const flags = { read: true, write: true };
      const { file } = await fs.create(ROOT_CREDENTIALS, inode, name, { mode: 0o644, flags });
      await file.write(random.below(100_000), random.bytes(1 + random.below(50_000)));
      await file.close();
      if (random.below(3) === 0) await fs.unlink(ROOT_CREDENTIALS, inode, name);
    };
    await work().catch(() => undefined);
  }
}

/** What was never synced may be gone, as on a local disk: it reads as older bytes or zeros, at once, and is no error. */
async function checkCareless(world: World): Promise<void> {
  const fs = await world.connect('careful');
  const { inode } = await fs.lookup(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('careless'));
  const { entries } = await fs.readDirectory(ROOT_CREDENTIALS, inode, 0);
  for (const { name } of entries) {
    const { file, attributes } = await fs.openAt(ROOT_CREDENTIALS, inode, name, { read: true, write: true });
    const began = world.clock.nowUs;
    await file.read(0, attributes.size);
    const tookMs = (world.clock.nowUs - began) / 1000;
    assert.ok(tookMs < 5000, `reading ${name.toString()} took ${tookMs} ms`);
    const bytes = Buffer.alloc(attributes.size + 1000, name);
    await file.write(0, bytes);
    await file.sync();
    equalBytes(await file.read(0, bytes.length + 1), bytes, `${name.toString()}, written anew`);
    await file.close();
  }
  await fs.close();
}

/** Takes one of `items` out. */
function take(random: SeededRandom, items: string[]): string {
  const item = pick(random, items);
  items.splice(items.indexOf(item), 1);
  return item;
}

for (const seed of seeds(6, 301)) {
  t.test(`P1: seed ${seed}`, async () => {
    const world = new World({ seed });
    const random = new SeededRandom(seed ^ 0xd15c);
    const model = new ModelFileSystem();
    const state = { isStopped: false };
    await world.runReported(async () => {
      await world.startAll();
      const clients = [await world.connect('client-1'), await world.connect('client-2')];
      const loser = await world.connect('client-3');
      const actors = await makeActors({
        clients,
        model,
        random,
        onOperation: (line) => world.trace.add(`operation ${line}`),
        syncsBeforeClose: true,
      });
      world.background(() => careless(world, loser, random, state));
      for (let round = 0; round < ROUNDS; round++) {
        await Promise.all(
          actors.map(async (actor) => {
            for (let count = 0; count < OPERATIONS; count++) await actor.step();
            await actor.syncAll();
          }),
        );
        // A round of syncs covers what returned before it; another actor may have been the last to change something.
        for (const actor of actors) await actor.syncAll();
        const all = [MASTER, ...world.chunkservers];
        const victims = random.below(4) === 0 ? all : all.filter(() => random.below(2) === 0);
        for (const victim of victims) {
          await world.powerOff(victim);
          if (random.below(2) === 0) await world.sleep(random.below(200));
        }
        await world.sleep(random.below(12_000));
        // They come back in any order.
        while (victims.length > 0) await world.powerOn(take(random, victims));
        await world.sleep(2000);
        const fresh = await world.connect(`checker-${round}`);
        await compareTrees(fresh, model, new Set(['careless']));
        await fresh.close();
      }
      state.isStopped = true;
      for (const actor of actors) await actor.handOver();
      await bringBack(world);
      await settleAndCheck(world, model, new Set(['careless']), { mayBeLost: true });
      await checkCareless(world);
    });
    world.stop();
  });
}
