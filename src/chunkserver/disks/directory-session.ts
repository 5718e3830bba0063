/**
 * How a data directory is used, and was used last: the file `session`.
 *
 *   bootId, clean   the boot of that use, and whether all replicas were synced and marked at its end
 *   generation      how new the content is, compared with what the master knows of this disk
 *   rolledBack      it was put back to an older state, and not all of it has been compared with other replicas
 *   doubt           a start after a loss of power has not come to its end
 */
import { GENERATION_INTERVAL_MS } from '../../core/limits.js';
import { Mutex } from '../../core/sync.js';
import type { DirectoryBoot } from './directory-boot.js';
import type { StoredIdentity } from './directory-identity.js';
import type { JsonFiles } from './json-files.js';

type Doubt = 'unreported' | 'suspects';

export class DirectorySession {
  /** All its replicas were synced when it was used last. */
  leftClean = false;
  /** Left clean, or used last under this boot and nothing in doubt: replicas that are dirty are not suspect. */
  trusted = false;
  /** The start after a loss of power, or another one in its place: what is not here was not synced. */
  lostPower = false;
  /**
   * What such a start has not come to the end of: it has not told the master what it found, or some of it is suspect yet. One that takes
   * its place in the same boot begins anew with that.
   */
  private doubt: Doubt | undefined;
  /**
   * Grows after each start, once the master has seen it, and while it is written to, durably and before the master is told: so
   * one that the master knows with a higher one was put back to an older state.
   */
  generation = 0;
  /** As it was found at the start of this process. */
  foundGeneration = 0;
  /** It was put back to an older state, and some of its replicas may miss mutations still. */
  rolledBack = false;
  private hasJoined = false;
  private changed = false;
  private raisedMs = -Infinity;
  private raising = false;
  private lessening = false;
  private readonly writes = new Mutex('chunkserver.session');

  constructor(
    private readonly files: JsonFiles,
    private readonly boot: DirectoryBoot,
  ) {}

  /** Reads how the directory was left, and says that it is in use. */
  async begin(identity: StoredIdentity | undefined): Promise<void> {
    const stored = await this.files.read('session');
    this.leftClean = stored?.['clean'] === true;
    const { disk, list } = identity ?? {};
    const place = list?.disks.find(({ id }) => id === disk)?.path;
    const isIntact = this.boot.begin(stored?.['bootId'], disk, place);
    const doubt = isIntact ? doubtOf(stored) : 'unreported';
    this.trusted = stored === undefined || this.leftClean || doubt === undefined;
    this.doubt = this.trusted ? undefined : doubt;
    this.lostPower = this.doubt === 'unreported';
    this.rolledBack = stored?.['rolledBack'] === true;
    this.foundGeneration = this.generation = generationOf(stored);
    // Raised once the master has seen what was found here: starts without one would hide that it was put back.
    await this.write({ raise: false, clean: false });
  }

  /** A replica in it was changed, made or removed. */
  noteChange(): void {
    this.changed = true;
  }

  /** The master has seen the generation that was found. */
  noteJoined(): void {
    if (this.hasJoined) return;
    this.hasJoined = true;
    this.changed = true;
  }

  /** Raises the generation if anything was changed, and not more often than GENERATION_INTERVAL_MS. */
  async raiseGeneration(nowMs: number): Promise<void> {
    // One that is behind stays behind until all that may be wrong with it was mended.
    if (!this.changed || !this.hasJoined || this.rolledBack || this.raising) return;
    if (this.raisedMs + GENERATION_INTERVAL_MS > nowMs) return;
    this.raising = true;
    try {
      this.raisedMs = nowMs;
      this.changed = false;
      await this.write({ raise: true, clean: false });
    } catch (error) {
      this.changed = true;
      throw error;
    } finally {
      this.raising = false;
    }
  }

  /** The master knows a newer state of it. */
  async beginRollback(): Promise<void> {
    this.rolledBack = true;
    await this.write({ raise: false, clean: false, rolledBack: true });
  }

  /** Everything in it is as it should be again. `generation`: the highest that the master knows. */
  async endRollback(generation: number): Promise<void> {
    await this.write({ raise: true, clean: false, rolledBack: false, least: generation });
  }

  /** The master has been told what is here, of which so many are suspect yet. */
  async lessenDoubt(suspects: number): Promise<void> {
    const { doubt } = this;
    if (doubt === undefined || (doubt === 'suspects' && suspects > 0) || this.lessening) return;
    this.lessening = true;
    try {
      await this.write({ raise: false, clean: false, doubt: suspects > 0 ? 'suspects' : 'none' });
    } finally {
      this.lessening = false;
    }
  }

  /** The directory is left clean. */
  end(): Promise<void> {
    return this.write({ raise: this.hasJoined && !this.rolledBack, clean: true });
  }

  /** What changes counts when it is on the disk. `least`: the generation is raised above it. */
  private write(change: {
    readonly raise: boolean;
    readonly clean: boolean;
    readonly rolledBack?: boolean;
    readonly doubt?: Doubt | 'none';
    readonly least?: number;
  }): Promise<void> {
    return this.writes.run(async () => {
      const { raise, clean, rolledBack = this.rolledBack, least = 0 } = change;
      const generation = Math.max(this.generation, least) + (raise ? 1 : 0);
      const doubt = change.doubt === 'none' ? undefined : (change.doubt ?? this.doubt);
      await this.files.write('session', { bootId: this.boot.id, clean, generation, rolledBack, doubt });
      this.generation = generation;
      this.rolledBack = rolledBack;
      this.doubt = doubt;
    });
  }
}

function doubtOf(session: Readonly<Record<string, unknown>> | undefined): Doubt | undefined {
  const doubt = session?.['doubt'];
  return doubt === 'unreported' || doubt === 'suspects' ? doubt : undefined;
}

/** Those that older versions left have none. */
function generationOf(session: Readonly<Record<string, unknown>> | undefined): number {
  const generation = session?.['generation'];
  return Number.isSafeInteger(generation) ? Number(generation) : 0;
}
