/** Whether the cluster is whole: what the master says, and whether that is true. */
import { asCairnError } from '../../../src/core/errors.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import { allFiles } from './final-check.js';
import { Inspector } from '../world/inspector.js';
import type { World } from '../world/world.js';

/** Between two looks. */
const LOOK_MS = 2_000;
/** The dead are noticed after 10 s, and missing replicas made after 30 s: the rest is copying, with failed attempts, and
 * the end of other trouble. */
const HEALTHY_MS = 300_000;
/** The time in which a lie may be a thing of the moment: what a server reports is on its way. */
const TRUTH_MS = 60_000;

export class Health {
  constructor(
    private readonly world: World,
    /** A client that has no trouble of its own. */
    private readonly observer: ClusterFileSystem,
  ) {}

  /** Waits until all chunks have all their replicas, really; fails when that takes too long, or when the master is wrong. */
  async demandHealthy(why: string): Promise<void> {
    const { world } = this;
    const beganUs = world.clock.nowUs;
    let liesSinceUs: number | undefined;
    let last = 'nobody answered';
    for (;;) {
      let said = await this.whatMasterSays();
      const wrong = said === undefined ? await this.whatIsWrong() : [];
      if (said === undefined && wrong.length === 0) return;
      said ??= await this.damageTold();
      liesSinceUs = said === undefined ? (liesSinceUs ?? world.clock.nowUs) : undefined;
      last = [said ?? 'the master says that all is well', ...wrong.slice(0, 3)].join('; ');
      const nowUs = world.clock.nowUs;
      if (liesSinceUs !== undefined && nowUs - liesSinceUs > TRUTH_MS * 1000) {
        throw new Error(`status is not true for ${TRUTH_MS} ms, ${why}: ${last}`);
      }
      if (nowUs - beganUs > HEALTHY_MS * 1000 && liesSinceUs === undefined) {
        throw new Error(`not healthy ${HEALTHY_MS} ms ${why}: ${last}`);
      }
      await world.sleep(LOOK_MS);
    }
  }

  /** Whether the cluster becomes whole within the time; nothing fails. */
  async becomesHealthy(limitMs: number): Promise<boolean> {
    for (let waitedMs = 0; waitedMs < limitMs; waitedMs += LOOK_MS) {
      if ((await this.whatMasterSays()) === undefined && (await this.whatIsWrong()).length === 0) return true;
      await this.world.sleep(LOOK_MS);
    }
    return false;
  }

  /** Whether an administrator reads that no disk of a chunkserver is in service. Waits until the master can be asked. */
  async hasNoDisk(server: string): Promise<boolean> {
    // What it knows of its disks comes with its heartbeats.
    for (;;) {
      await this.world.sleep(LOOK_MS);
      try {
        const { servers } = await this.observer.status();
        const disks = servers.find(({ address }) => address.startsWith(`${server}:`))?.disks ?? [];
        return disks.every(({ problem }) => problem !== '');
      } catch {
        // It is away itself.
      }
    }
  }

  /** What it says, when it can be asked. */
  async isMasterShortOfSpace(): Promise<boolean> {
    try {
      return (await this.observer.status()).masterShortOfSpace;
    } catch {
      return false;
    }
  }

  /** undefined: all is well. */
  private async whatMasterSays(): Promise<string | undefined> {
    const { world, observer } = this;
    try {
      const { servers, underReplicatedChunks, unavailableChunks, surplusChunks, doubtfulChunks } =
        await observer.status();
      const alive = servers.filter((server) => server.alive).length;
      if (alive < world.chunkservers.length) return `${alive} of ${world.chunkservers.length} chunkservers are alive`;
      if (unavailableChunks > 0) return `${unavailableChunks} chunks are unavailable`;
      if (underReplicatedChunks > 0) return `${underReplicatedChunks} chunks have too few replicas`;
      if (doubtfulChunks > 0) return `${doubtfulChunks} chunks are being recovered`;
      if (surplusChunks > 0) return `${surplusChunks} chunks have too many replicas`;
      return undefined;
    } catch (error) {
      return `status: ${asCairnError(error).code}`;
    }
  }

  /**
   * undefined: no chunk has damaged blocks. What has become whole by itself may count for a day, so this explains what is wrong, and
   * is nothing that is wrong.
   */
  private async damageTold(): Promise<string | undefined> {
    try {
      const { damagedChunks } = await this.observer.status();
      return damagedChunks > 0 ? `${damagedChunks} chunks have damaged blocks` : undefined;
    } catch (error) {
      return `status: ${asCairnError(error).code}`;
    }
  }

  /** Asks every member of every chunk for it. A damaged replica is reported by its server, as to any reader. */
  private async whatIsWrong(): Promise<string[]> {
    const { world, observer } = this;
    let inspector: Inspector | undefined;
    try {
      inspector = await Inspector.connect(world);
      return await inspector.missingReplicas(observer, await allFiles(observer));
    } catch (error) {
      return [`a look at the replicas fails: ${asCairnError(error).message}`];
    } finally {
      inspector?.close();
    }
  }
}
