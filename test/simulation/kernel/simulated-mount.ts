/** A mount in the simulator: the production driver and client of one machine, below a model of its kernel. */
import type { Clock } from '../../../src/core/clock.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import { ServedMount } from '../../../src/fuse/kernel/driver.js';
import type { Leases } from '../../../src/client/session/holdings.js';
import type { Random } from '../../../src/core/random.js';
import { u32 } from '../../support/fakes/fake-kernel.js';
import type { World } from '../world/world.js';
import { SimulatedKernel } from './simulated-kernel.js';

/** As Linux 6.18 sends it: everything is offered. */
const INIT = Buffer.concat([u32(7, 45, 131072, 0xffffffff, 0xffffffff), Buffer.alloc(44)]);
/** A thread that has its answer runs after up to this. */
const MAX_WAKE_MS = 0.3;

export interface MountTimes {
  readonly entryMs: number;
  readonly attributesMs: number;
  /** Of the client's own memory. */
  readonly cacheMs: number;
  readonly leases?: Leases;
}

/** As `cairn mount` without options. */
export const DEFAULT_TIMES: MountTimes = { entryMs: 1_000, attributesMs: 1_000, cacheMs: 1_000 };

export interface SimulatedMount {
  readonly host: string;
  readonly kernel: SimulatedKernel;
  readonly fs: ClusterFileSystem;
}

export async function mountOn(
  world: World,
  host: string,
  random: Random,
  times: MountTimes = DEFAULT_TIMES,
): Promise<SimulatedMount> {
  const fs = await world.connect(host, { cacheTtlMs: times.cacheMs, leases: times.leases ?? 'none' });
  const { clock }: { readonly clock: Clock } = world.processDependencies(host);
  const wake = (): Promise<void> => world.sleep((random.below(100) * MAX_WAKE_MS) / 100);
  const kernel = new SimulatedKernel({ clock, wake });
  const served = new ServedMount(kernel.door, {
    fileSystem: fs,
    credentials: ROOT_CREDENTIALS,
    logger: silentLogger,
    clock,
    root: ROOT_INODE,
    kernelChecks: true,
    attributeTimeoutMs: times.attributesMs,
    entryTimeoutMs: times.entryMs,
    threads: kernel.threadsOfMachine,
  });
  world.background(() => served.connection.serve());
  await kernel.mount(INIT);
  return { host, kernel, fs };
}
