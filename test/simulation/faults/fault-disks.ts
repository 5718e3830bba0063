/** Faults of a chunkserver's disks: of one volume, where it has several. */
import { pick } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import { KIB } from '../../../src/core/limits.js';
import { DATA_OFFSET, TABLE_OFFSET } from '../../../src/chunkserver/chunk/chunk-format.js';
import { lengthOf } from './fault-length.js';
import { startIfDown, startRoughly } from './fault-machines.js';
import type { Fault, FaultScene } from './fault.js';
import type { PlantedFault } from '../machine/simulated-disk.js';
import type { World } from '../world/world.js';

/** Calls by what they are for: each has its own way of failing half-way. */
const LABELS = [
  'chunk.header',
  'chunk.table',
  'chunk.write',
  'chunk.read',
  'chunk.sync',
  'chunk.open',
  'chunk.rename',
  'chunk.unlink',
  'chunk.truncate',
  'directory.sync',
  'directory.space',
] as const;

const ROUGH_MS = 40_000;

export const DISK_FAULTS: readonly Fault[] = [
  {
    kind: 'slow-disk',
    weight: 3,
    budget: 'place',
    run: async (scene, server) => {
      const { world, random, isGentle } = scene;
      const disk = world.disk(server);
      const volume = pick(random, world.dataDirectories);
      const label = random.below(3) === 0 ? undefined : pick(random, [...LABELS, 'chunk.sync', 'chunk.sync']);
      const delayUs = pick(random, isGentle ? [10e3, 50e3, 200e3, 1e6] : [10e3, 100e3, 1e6, 3e6, 5e6, 20e6]);
      // Sometimes one call in a few only, so that they overtake each other.
      const oneIn = pick(random, [1, 1, 3]);
      const slow = disk.plant(
        (each, path) =>
          isIn(path, volume) && (label === undefined || each === label) && (oneIn === 1 || random.below(oneIn) === 0),
        { delayUs },
      );
      await world.sleep(lengthOf(scene, ROUGH_MS));
      disk.lift(slow);
      scene.bustle();
      return slow.hits > 0;
    },
  },
  {
    kind: 'hung-disk',
    weight: 2,
    budget: 'place',
    run: async (scene, server) => {
      const { world } = scene;
      const hung = hang(scene, server);
      await world.sleep(lengthOf(scene, 60_000));
      world.disk(server).lift(hung);
      scene.bustle();
      return hung.hits > 0;
    },
  },
  {
    kind: 'hung-until-restart',
    weight: 2,
    budget: 'place',
    run: async (scene, server) => {
      const { world } = scene;
      const hung = hang(scene, server);
      await world.sleep(lengthOf(scene, 60_000));
      await world.kill(server);
      world.disk(server).lift(hung);
      await world.sleep(lengthOf(scene));
      await startIfDown(world, server);
      return hung.hits > 0;
    },
  },
  {
    // A full member deletes its replica, if the others have room.
    kind: 'full-disk',
    weight: 2,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const disk = world.disk(server);
      const before = disk.fullHits;
      const volume = pick(random, world.dataDirectories);
      disk.fill(random.below(2) === 0 ? random.below(200 * KIB) : random.below(16 * KIB), volume);
      await world.sleep(lengthOf(scene, ROUGH_MS));
      disk.makeRoom(volume);
      return disk.fullHits > before;
    },
  },
  {
    // The volume returns errors for a while; its process goes on, and is started again later, or not.
    kind: 'disk-error',
    weight: 2,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const volume = pick(random, world.dataDirectories);
      const failing = world.disk(server).plant((_, path) => isIn(path, volume), { failWith: 'EIO' });
      await world.sleep(1000 + lengthOf(scene, ROUGH_MS));
      // A start finds it failing, or whole again.
      const isWholeAtStart = random.below(3) > 0;
      if (isWholeAtStart) world.disk(server).lift(failing);
      await restart(scene, server);
      await world.sleep(lengthOf(scene, ROUGH_MS));
      world.disk(server).lift(failing);
      if (!isWholeAtStart) await restart(scene, server);
      return failing.hits > 0;
    },
  },
  {
    // The file system fails, its process ends, and without a boot it is unmounted and mounted again.
    kind: 'remounted-disk',
    weight: 2,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const volumes = random.below(2) === 0 ? world.dataDirectories : [pick(random, world.dataDirectories)];
      const lost = await failAndRemount(scene, server, volumes);
      await startRoughly(scene, server);
      return lost > 0;
    },
  },
  {
    // It returns errors for good, and another one is put in its place while the machine is off.
    kind: 'dead-disk',
    weight: 2,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const volume = pick(random, world.dataDirectories);
      const dead = world.disk(server).plant((_, path) => isIn(path, volume), { failWith: 'EIO' });
      await world.sleep(1000 + lengthOf(scene, 90_000));
      // Nobody may come for days.
      // It heals without him where as many servers as there are replicas have a disk left, however many lost one.
      const places = world.chunkservers.length - (world.dataDirectories.length > 1 ? 0 : world.wantedReplicas - 1);
      const mayWait = places >= world.wantedReplicas;
      if (random.below(2) === 0 && mayWait) await scene.health.demandHealthy(`with a dead disk in ${server}`);
      await world.kill(server);
      world.forgottenDisks.push(diskIn(scene, server, volume));
      world.disk(server).replaceVolume(volume);
      world.disk(server).lift(dead);
      await startIfDown(world, server);
      return dead.hits > 0;
    },
  },
  {
    // Sectors that cannot be read or written: of one chunk's file.
    kind: 'file-error',
    weight: 2,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const disk = world.disk(server);
      const files = chunkFiles(scene, server);
      if (files.length === 0) return false;
      const bad = pick(random, files);
      const onlyReads = random.below(2) === 0;
      const failing = disk.plant(
        (label, path) => path === bad && (!onlyReads || ['chunk.read', 'chunk.open', 'chunk.peek'].includes(label)),
        { failWith: 'EIO' },
      );
      await world.sleep(1000 + lengthOf(scene, 90_000));
      if (random.below(2) === 0) await restart(scene, server);
      if (random.below(2) === 0) await scene.health.demandHealthy(`with bad sectors in ${server}`);
      disk.lift(failing);
      return failing.hits > 0;
    },
  },
  {
    // One kind of call fails now and then, so that what consists of several is done in part.
    kind: 'call-error',
    weight: 3,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const disk = world.disk(server);
      const volume = pick(random, world.dataDirectories);
      const label = pick(random, LABELS);
      const failWith = pick(random, ['EIO', 'EIO', 'ENOSPC', 'EROFS'] satisfies ErrorCode[]);
      const oneIn = pick(random, [1, 2, 5]);
      const failing = disk.plant((each, path) => each === label && isIn(path, volume) && random.below(oneIn) === 0, {
        failWith,
      });
      await world.sleep(1000 + lengthOf(scene, ROUGH_MS));
      disk.lift(failing);
      // A directory that went out of service comes back with a start only, and others may be out like that already.
      const isWanted = random.below(3) > 0;
      if (isWanted || (await scene.health.hasNoDisk(server))) await restart(scene, server);
      return failing.hits > 0;
    },
  },
  {
    // A start finds the mount point empty; later the volume is mounted, before another start.
    kind: 'unmounted-disk',
    weight: 2,
    budget: 'loss',
    // Without another disk that knows of it, the server begins anew in the mount point, and what it takes there goes when the
    // volume is mounted over it: the other replicas are needed until then.
    isAlone: ({ dataDirectories }) => dataDirectories.length === 1,
    run: async (scene, server) => {
      const { world, random } = scene;
      const disk = world.disk(server);
      const volume = pick(random, world.dataDirectories);
      if (random.below(2) === 0) await world.kill(server);
      else await world.powerOff(server);
      disk.unmount(volume);
      const isUp = await world.tryPowerOn(server);
      await world.sleep(lengthOf(scene, 100_000));
      await world.kill(server);
      disk.mount(volume);
      await world.tryStart(server);
      return isUp;
    },
  },
  {
    // A volume is as it was some time ago: a snapshot of the machine was restored, or a copy of the disk put in.
    // While the others are away this disk may come to hold the only replica that is current, and then nothing makes up for it.
    kind: 'old-disk',
    weight: 2,
    budget: 'loss',
    isAlone: () => true,
    run: async (scene, server) => {
      const { world, random } = scene;
      const disk = world.disk(server);
      // The whole machine, or one of its disks.
      const volumes = random.below(2) === 0 ? world.dataDirectories : [pick(random, world.dataDirectories)];
      const before = volumes.map((volume) => ({
        ...{ volume, files: disk.snapshot(volume), changes: disk.changesOf(volume) },
      }));
      await world.sleep(1000 + lengthOf(scene, 60_000));
      const isOther = before.some(({ volume, changes }) => disk.changesOf(volume) > changes);
      // A step back over less work than this, on all of them, is not noticed (failure-model.md).
      await world.sleep(UNNOTICED_WORK_MS);
      if (!isOther) return false;
      await world.kill(server);
      for (const { volume, files } of before) disk.putBack(volume, files);
      await world.sleep(lengthOf(scene));
      await world.tryStart(server);
      return isOther;
    },
  },
  {
    // Bits flip where nobody looks.
    kind: 'rot',
    weight: 3,
    budget: 'loss',
    run: async (scene, server) => {
      const { world, random } = scene;
      const hasRotted = rot(world, random, server);
      await world.sleep(lengthOf(scene, ROUGH_MS));
      return hasRotted;
    },
  },
];

/** Flips a few bits of the replicas of a server, mostly in their data. False when it has none. */
export function rot(world: World, random: Random, server: string): boolean {
  const disk = world.disk(server);
  const files = chunkFiles({ world }, server);
  for (let count = Math.min(files.length, 1 + random.below(6)); count > 0; count--) {
    const path = pick(random, files);
    const size = disk.content(path).length;
    const part = random.below(8);
    const [from, to] = part === 0 ? [0, TABLE_OFFSET] : part === 1 ? [TABLE_OFFSET, DATA_OFFSET] : [DATA_OFFSET, size];
    if (to > from && size >= to) disk.rot(path, from + random.below(to - from));
  }
  return files.length > 0;
}

/**
 * The file systems of these volumes fail, and are unmounted and mounted again while the server is down: what was not synced may be
 * gone. Returns how many changes were.
 */
export async function failAndRemount(
  { world, random }: Pick<FaultScene, 'world' | 'random'>,
  server: string,
  volumes: readonly string[],
): Promise<number> {
  const disk = world.disk(server);
  const { notes } = world.notes(server);
  // That of a disk which was replaced since stays, and nobody takes it for one of these.
  const before = new Set(notes.keys());
  const isNoticed = (): boolean => [...notes.keys()].filter((name) => !before.has(name)).length >= volumes.length;
  const mayRead = random.below(3) === 0;
  const readers = ['chunk.read', 'chunk.open', 'chunk.peek', 'directory.list', 'directory.identity'];
  const failing = disk.plant(
    (label, path) => volumes.some((volume) => isIn(path, volume)) && !(mayRead && readers.includes(label)),
    { failWith: pick(random, ['EIO', 'EIO', 'EROFS'] satisfies ErrorCode[]) },
  );
  // What fails while nobody looks, and is mounted again before anybody does, is not noticed (failure-model.md).
  if (random.below(3) > 0) {
    for (let looks = 0; !isNoticed() && looks < 60; looks++) await world.sleep(random.below(1_000));
    await world.sleep(random.below(3) === 0 ? random.below(60_000) : random.below(500));
  }
  await world.kill(server);
  for (let tries = isNoticed() ? random.below(3) : 1; tries > 0; tries--) {
    await world.tryStart(server);
    await world.sleep(random.below(3_000));
    await world.kill(server);
  }
  const mayLose = isNoticed();
  disk.lift(failing);
  if (!mayLose) return 0;
  const keeps = random.below(2) === 0 ? 'nothing' : 'some';
  return volumes.reduce((lost, volume) => lost + disk.remount(volume, keeps), 0);
}

/** Time between generations of a data directory, and to tell the master of one. */
const UNNOTICED_WORK_MS = 15_000;

/** The id of the disk that is there: who replaces it says so. */
export function diskIn({ world }: Pick<FaultScene, 'world'>, server: string, volume: string): string {
  try {
    const { disk } = JSON.parse(world.disk(server).content(`${volume}/identity`).toString()) as { disk?: string };
    return disk ?? '';
  } catch {
    // It never joined.
    return '';
  }
}

const isIn = (path: string, volume: string): boolean => path === volume || path.startsWith(`${volume}/`);

function hang({ world, random }: FaultScene, server: string): PlantedFault {
  const volume = pick(random, world.dataDirectories);
  const label = random.below(2) === 0 ? undefined : pick(random, LABELS);
  const matches = (each: string, path: string): boolean =>
    isIn(path, volume) && (label === undefined || each === label);
  return world.disk(server).plant(matches, { hangs: true });
}

async function restart(scene: FaultScene, server: string): Promise<void> {
  const { world } = scene;
  await world.kill(server);
  await world.sleep(lengthOf(scene));
  await startIfDown(world, server);
}

function chunkFiles({ world }: Pick<FaultScene, 'world'>, server: string): string[] {
  const disk = world.disk(server);
  return world.dataDirectories.flatMap((volume) => disk.files(volume).filter((path) => path.includes('/chunks/')));
}
