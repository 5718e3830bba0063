/**
 * What no replica helps against, in rounds: power fails everywhere, disks are not mounted anywhere, the master is put back to a
 * backup. Afterwards all that is promised must be there: what was fsynced, or what a backup held; and nothing that is
 * somebody else's.
 */
import assert from 'node:assert/strict';
import { pick, SeededRandom } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { backUp } from '../world/administrator.js';
import type { FaultKind } from '../faults/fault.js';
import type { FaultCounts } from '../faults/fault-counts.js';
import { diskIn, failAndRemount, rot } from '../faults/fault-disks.js';
import { startIfDown, startRoughly } from '../faults/fault-machines.js';
import { checkReplicas, demandQuiet, filesOf } from '../judges/final-check.js';
import { Health } from '../judges/health.js';
import type { StormResult } from './storm.js';
import { HeldOver } from './held-over.js';
import { VersionedFiles, VERSIONED } from './versioned-files.js';
import type { VersionedClient } from './versioned-files.js';
import { bringBack, drawShape, QUIET_MS } from './workload.js';
import { MASTER, World } from '../world/world.js';

interface Scene {
  readonly world: World;
  readonly random: Random;
  readonly versioned: VersionedFiles;
  readonly clients: readonly VersionedClient[];
}

interface Disaster {
  readonly kind: FaultKind;
  /** Nothing comes after it: something may be lost for good, and is told as an error. */
  readonly isLast?: boolean;
  /** Returns whether it took effect. */
  run(scene: Scene): Promise<boolean>;
}

const LIMITS = { limitMs: 3 * 3_600_000 };

export const DISASTERS: readonly Disaster[] = [
  {
    kind: 'power-everywhere',
    run: async ({ world, random, versioned }) => {
      const victims = random.below(2) === 0 ? [...world.chunkservers] : [MASTER, ...world.chunkservers];
      let lost = 0;
      const keeps = random.below(3) === 0 ? 'nothing' : 'some';
      for (const victim of victims) {
        lost += await world.powerOff(victim, keeps);
        if (random.below(4) === 0) await world.sleep(random.below(200));
      }
      versioned.losePower();
      await world.sleep(random.below(12_000));
      while (victims.length > 0) {
        const victim = pick(random, victims);
        victims.splice(victims.indexOf(victim), 1);
        world.network.hostUp(victim);
        await startRoughly({ world, random }, victim);
        if (random.below(4) === 0) await world.sleep(random.below(5_000));
      }
      return lost > 0;
    },
  },
  {
    kind: 'power-master',
    run: async ({ world, random, versioned }) => {
      const lost = await world.powerOff(MASTER, random.below(2) === 0 ? 'nothing' : 'some');
      versioned.losePower();
      await world.sleep(random.below(12_000));
      world.network.hostUp(MASTER);
      await startRoughly({ world, random }, MASTER);
      return lost > 0;
    },
  },
  {
    // Its file system fails, its process ends, and without a boot the file system is unmounted and mounted again.
    kind: 'remounted-master',
    run: async ({ world, random, versioned }) => {
      const disk = world.disk(MASTER);
      const label = pick(random, ['any', 'oplog.append', 'oplog.flush']);
      const isMet = (each: string, path: string): boolean =>
        path.startsWith('/log') && (label === 'any' || each === label);
      const failing = disk.plant(isMet, { failWith: 'EIO' });
      for (let looks = 0; world.isRunning(MASTER) && looks < 60; looks++) await world.sleep(random.below(1_000));
      for (let tries = random.below(3); tries > 0 && !world.isRunning(MASTER); tries--) await world.tryStart(MASTER);
      disk.lift(failing);
      if (world.isRunning(MASTER)) return false;
      const lost = disk.remount('/log', random.below(2) === 0 ? 'nothing' : 'some');
      versioned.losePower();
      await world.sleep(random.below(12_000));
      await world.start(MASTER);
      return lost > 0;
    },
  },
  {
    // The file systems of the data directories fail, on all servers at once or nearly, as where they are one shared device.
    kind: 'remounted-disks',
    run: async ({ world, random, versioned }) => {
      const lost = await Promise.all(
        world.chunkservers.map(async (name) => {
          await world.sleep(random.below(2_000));
          const volumes = random.below(3) > 0 ? world.dataDirectories : [pick(random, world.dataDirectories)];
          return failAndRemount({ world, random }, name, volumes);
        }),
      );
      versioned.losePower();
      await world.sleep(random.below(12_000));
      for (const name of world.chunkservers) await startRoughly({ world, random }, name);
      return lost.some((count) => count > 0);
    },
  },
  {
    // After a site's power cut, disks are mounted too late: on more servers than there are replicas.
    kind: 'unmounted-everywhere',
    run: async ({ world, random, versioned }) => {
      const all = [MASTER, ...world.chunkservers];
      // A server that has no other disk begins anew in its mount point, and what it takes there is gone when the disk is mounted
      // over it. Where that may be all replicas of a chunk, nothing is written meanwhile.
      const goOn = world.dataDirectories.length === 1 ? await versioned.holdWrites() : undefined;
      for (const name of all) await world.powerOff(name);
      versioned.losePower();
      // The same on each, often, as they are built alike.
      const alike = random.below(3) > 0 ? pick(random, world.dataDirectories) : undefined;
      const volumes = world.chunkservers.flatMap((name) =>
        world.dataDirectories
          .filter((volume) => (alike === undefined ? random.below(3) > 0 : volume === alike))
          .map((volume) => ({ name, volume })),
      );
      const late = volumes.filter(() => random.below(8) > 0);
      for (const { name, volume } of late) world.disk(name).unmount(volume);
      for (const name of all) await world.tryPowerOn(name);
      await world.sleep(5_000 + random.below(60_000));
      for (const name of new Set(late.map((each) => each.name))) {
        await world.kill(name);
        for (const each of late) if (each.name === name) world.disk(name).mount(each.volume);
        await startIfDown(world, name);
      }
      goOn?.();
      return late.length > 0;
    },
  },
  {
    // Blocks of the only replicas that are left had rotted unread: each is told as an error, or is right (P3).
    kind: 'rot-and-loss',
    isLast: true,
    run: async ({ world, random, versioned }) => {
      const observer = await world.connect('observer-rot');
      await new Health(world, observer).demandHealthy('before rot-and-loss');
      await observer.close();
      const servers = [...world.chunkservers];
      const take = (): string => servers.splice(random.below(servers.length), 1)[0] ?? assert.fail('no server is left');
      const hasRotted = rot(world, random, take());
      versioned.mayLoseBlocks = true;
      if (random.below(3) === 0) await world.sleep(random.below(5_000));
      // As many as may be lost; at once, or one by one without time to make up for it.
      for (let count = world.wantedReplicas - 1; count > 0; count--) {
        const victim = take();
        if (random.below(2) === 0) await world.kill(victim);
        else await world.powerOff(victim);
        for (const volume of world.dataDirectories) {
          world.forgottenDisks.push(diskIn({ world }, victim, volume));
          world.disk(victim).replaceVolume(volume);
        }
        await world.sleep(random.below(3_000));
        await world.tryPowerOn(victim);
      }
      return hasRotted;
    },
  },
  {
    kind: 'master-put-back',
    run: async ({ world, random, versioned, clients }) => {
      const held = new HeldOver(world, random);
      await held.make(clients[0]?.fs ?? assert.fail('there are clients'));
      // The leases of then are over, or not.
      await world.sleep(random.below(2) === 0 ? 0 : 90_000);
      const backup = versioned.backup();
      const restoreState = backUp(world);
      await world.sleep(random.below(20_000));
      // A start takes ids from where the last life of the master did not get to: so does the one from the backup.
      if (random.below(2) === 0) {
        await world.kill(MASTER);
        await world.start(MASTER);
      }
      for (let count = random.below(12); count > 0; count--) await versioned.add(clients);
      await held.hold();
      await world.sleep(random.below(40_000));
      held.cutOff();
      if (random.below(2) === 0) await world.kill(MASTER);
      else await world.powerOff(MASTER);
      await restoreState();
      versioned.putBack(backup);
      // Deleting takes a while, as on a hard disk: what is not known any more is still there when names are given anew.
      const delayUs = pick(random, [3_000, 300_000]);
      const slow = world.chunkservers.map((name) => {
        const fault = world.disk(name).plant((label) => label === 'chunk.unlink', { delayUs });
        return { name, fault };
      });
      await world.powerOn(MASTER);
      await world.sleep(random.below(3_000));
      const fresh = { host: 'client-new', fs: await world.connect('client-new') };
      const others = { host: 'client-other', fs: await world.connect('client-other') };
      for (let count = 2 + random.below(12); count > 0; count--) await versioned.add([fresh, others]);
      await held.takeOver(fresh.fs);
      for (const { name, fault } of slow) world.disk(name).lift(fault);
      return true;
    },
  },
];

/** A server that cannot be used is left out after so long at most, and the call is made again. */
const LONGEST_CALL_MS = 12_000;

/** For longer than anybody is believed who is not heard of. */
const LONG_SLEEP_MS = 11_000;

/** No disasters, but what takes a calm cluster and a look at it afterwards. */
export const TRIALS: readonly Disaster[] = [
  {
    // P11: one disk that never answers, and nothing else, for longer than anybody may be kept waiting.
    kind: 'hung-alone',
    run: async ({ world, random, versioned }) => {
      const server = pick(random, world.chunkservers);
      const volume = pick(random, world.dataDirectories);
      const label = random.below(2) === 0 ? undefined : pick(random, ['chunk.sync', 'chunk.write', 'chunk.read']);
      const matches = (each: string, path: string): boolean =>
        path.startsWith(`${volume}/`) && (label === undefined || each === label);
      versioned.timeCalls();
      const hung = world.disk(server).plant(matches, { hangs: true });
      await world.sleep(90_000);
      const { what, tookMs } = versioned.slowest;
      assert.ok(
        tookMs <= LONGEST_CALL_MS,
        `P11: a ${what} took ${tookMs} ms while one disk hung (${label ?? 'all calls'})`,
      );
      await world.kill(server);
      world.disk(server).lift(hung);
      await world.start(server);
      return hung.hits > 0;
    },
  },
  {
    // A machine that sleeps, while all others go on without it, does not know that when it wakes up (P9).
    kind: 'suspended-alone',
    run: async ({ world, random, versioned }) => {
      let held = 0;
      for (let count = 2 + random.below(4); count > 0; count--) {
        const server = pick(random, world.chunkservers);
        world.freeze(server, 'suspended');
        await world.sleep(LONG_SLEEP_MS + random.below(15_000));
        held += world.thaw(server);
        versioned.bustle();
        await world.sleep(random.below(20_000));
      }
      return held > 0;
    },
  },
  {
    kind: 'more-or-fewer-replicas',
    run: async ({ world, random }) => {
      const before = world.wantedReplicas;
      world.wantedReplicas = before === 2 ? 3 : 2;
      await world.kill(MASTER);
      await world.sleep(random.below(3_000));
      await world.start(MASTER);
      return true;
    },
  },
];

export interface DisasterOptions {
  readonly seed: number;
  readonly counts: FaultCounts;
  readonly kinds?: readonly FaultKind[];
  readonly first?: FaultKind;
  readonly onLine?: (line: string) => void;
}

const CLIENTS = ['client-1', 'client-2', 'client-3'];
const MAX_ROUNDS = 3;

export async function runDisasters(options: DisasterOptions): Promise<StormResult> {
  const { seed, counts, onLine, first, kinds } = options;
  const random = new SeededRandom(seed ^ 0xd15a);
  const world = new World({ seed, ...drawShape(random), ...(onLine === undefined ? {} : { onLine }) });
  const deck = [...DISASTERS, ...TRIALS].filter(({ kind }) => kinds?.includes(kind) ?? true);
  let versioned: VersionedFiles | undefined;
  try {
    await world.runReported(async () => {
      await world.startAll();
      const clients: VersionedClient[] = [];
      for (const host of CLIENTS) clients.push({ host, fs: await world.connect(host) });
      const files = new VersionedFiles({ world, random, clients, files: 2 + random.below(4) });
      versioned = files;
      await files.start();
      let next = deck.find(({ kind }) => kind === first);
      for (let rounds = 1 + random.below(MAX_ROUNDS); rounds > 0; rounds--) {
        // At rest, or in the middle of it.
        await world.sleep(random.below(random.below(3) === 0 ? 90_000 : 15_000));
        const disaster = next ?? pick(random, deck);
        next = undefined;
        world.trace.add(`disaster ${disaster.kind}`);
        counts.note(disaster.kind, await disaster.run({ world, random, versioned: files, clients }));
        await world.sleep(random.below(30_000));
        if (disaster.isLast === true) {
          await files.stop();
          await world.sleep(QUIET_MS);
          const observer = await world.connect('final-checker');
          await files.check(observer);
          return;
        }
        const observer = await world.connect(`observer-${rounds}`);
        await new Health(world, observer).demandHealthy(`after ${disaster.kind}`);
        await files.check(observer);
        await observer.close();
      }
      await files.stop();
      await bringBack(world);
      await world.sleep(QUIET_MS);
      const fresh = await world.connect('final-checker');
      await files.check(fresh);
      await checkReplicas(world, fresh, await filesOf(fresh, new Set([VERSIONED])));
      await demandQuiet(world, fresh);
      await fresh.close();
    }, LIMITS);
  } finally {
    world.stop();
  }
  assert.ok(versioned !== undefined);
  const { reads, writes, errors } = versioned.counts;
  return { digest: world.trace.digest(), reads, writes, errors, simulatedMs: world.clock.nowUs / 1000 };
}
