/**
 * Clients that are killed in the middle of a write, while the servers cannot reach each other: what they leave behind
 * is anybody's guess, but all replicas must agree on it (P4).
 */
import { ROOT_INODE } from '../../../src/core/ids.js';
import { KIB } from '../../../src/core/limits.js';
import { pick } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { World } from '../world/world.js';

/** Name of the directory in the root. */
export const DOOMED = 'doomed';
const FILE_BYTES = 400 * KIB;

export class DoomedWriters {
  private isStopped = false;
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly world: World,
    private readonly random: Random,
    /** Longest time between two lives. */
    private readonly pauseMs = 500,
  ) {}

  async run(): Promise<void> {
    const { world, random } = this;
    for (let life = 0; !this.isStopped; life++) {
      await world.sleep(random.below(this.pauseMs));
      if (this.isStopped) return;
      this.running = this.live(`doomed-${life}`);
      await this.running;
    }
  }

  async stop(): Promise<void> {
    this.isStopped = true;
    await this.running;
  }

  private async live(name: string): Promise<void> {
    const { world, random } = this;
    const work = this.write(name);
    const [one, two] = [pick(random, world.chunkservers), pick(random, world.chunkservers)];
    await world.sleep(5 + random.below(60));
    // Some of its writes reach one replica and not the other.
    const isCut = one !== two && random.below(3) > 0;
    if (isCut) world.network.partition(one, two, random.below(2) === 0);
    await world.sleep(random.below(20));
    await world.kill(name);
    await world.sleep(random.below(200));
    if (isCut) {
      if (random.below(4) > 0) world.network.breakConnection(one, two);
      world.network.heal(one, two);
    }
    // A dead process's promises never settle: nobody waits for this one.
    work.catch(() => undefined);
  }

  private async write(name: string): Promise<void> {
    const { world, random } = this;
    const root = ROOT_CREDENTIALS;
    try {
      const fs = await world.connect(name);
      const made = fs.makeNode(root, ROOT_INODE, Buffer.from(DOOMED), { kind: 'directory', mode: 0o755 });
      await made.catch(() => undefined);
      const { inode } = await fs.lookup(root, ROOT_INODE, Buffer.from(DOOMED));
      const flags = { read: true, write: true };
      // Each its own file: a later writer would cover up what this one leaves.
      const text = Buffer.from(name);
      const { file } = await fs.create(root, inode, text, { mode: 0o644, flags });
      // The size is there from the start, so that what was written is not cut off with the session.
      await file.truncate(FILE_BYTES);
      for (;;) {
        await file.write(
          random.below(FILE_BYTES - 60 * KIB),
          Buffer.alloc(1 + random.below(60 * KIB), random.bytes(64)),
        );
        await (random.below(4) === 0 ? file.flush() : world.sleep(random.below(3)));
      }
    } catch {
      // The cluster may be away: there will be another life.
    }
  }
}
