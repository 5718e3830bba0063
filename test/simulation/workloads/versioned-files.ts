/**
 * Files with one writer each and readers on other clients, who know where the chunks are from reads before. Each page of a file
 * says which version of it it is, so that a reader can tell what it got: what was closed before he opened must be there (P2, P9),
 * what was fsynced is never lost (P1), and nobody sees bytes that nobody wrote there (P3, P5).
 *
 * Calls may fail while there is trouble, and say so. They never lie.
 */
import assert from 'node:assert/strict';
import { asCairnError } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../../src/core/limits.js';
import { pick, SeededRandom } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { FileSystem, OpenFile } from '../../../src/filesystem/filesystem.js';
import type { World } from '../world/world.js';
import { PAGE_BYTES, CELL_BYTES, VersionedFile, type Least } from './versioned-file.js';

/** Name of the directory in the root. */
export const VERSIONED = 'versioned';
/** Some writes are made of small ones. */
const PIECE_BYTES = 9 * CELL_BYTES;
const MAX_LOG_PAGES = 80;
const BUSTLE_MS = 400;
const BUSTLE_PAUSE_MS = 100;
const READ_WRITE = { read: true, write: true } as const;
const READ = { read: true, write: false } as const;

/** What a call may be told while there is trouble. All else is wrong: the files are there, and nobody is refused. */
const HONEST: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  ...['EIO', 'ETIMEDOUT', 'ENOSPC', 'ESTALE'],
  // What a program is told as one of these.
  ...['TIMEOUT', 'UNAVAILABLE', 'DISCONNECTED'],
] as ErrorCode[]);

/** A client: where it runs, and what it offers. */
export interface VersionedClient {
  readonly host: string;
  readonly fs: FileSystem;
}

export interface VersionedOptions {
  readonly world: World;
  readonly random: Random;
  readonly clients: readonly VersionedClient[];
  readonly files: number;
}

/** What there was when a backup was made: each file, and how often it had been written. */
export type Backup = ReadonlyMap<object, number>;

export interface VersionedCounts {
  reads: number;
  writes: number;
  readonly errors: Map<string, number>;
}

export class VersionedFiles {
  readonly counts: VersionedCounts = { reads: 0, writes: 0, errors: new Map() };
  private files: VersionedFile[] = [];
  private made = 0;
  /** The call that took the longest, of those that began since `timeCalls`. */
  slowest: { readonly what: string; readonly tookMs: number } = { what: 'none', tookMs: 0 };
  private timedFromUs = 0;
  /** Times at which unsynced writes were lost, and masters put back: what was seen before may be gone. */
  private losses = 0;
  /** Some blocks may be nowhere any more: they cannot be read, and are told so. */
  mayLoseBlocks = false;
  private bustlesUntilUs = 0;
  private readonly resting = new Set<() => void>();
  private isStopped = false;
  private areWritesHeld = false;
  private readonly running: Promise<void>[] = [];
  private directory: InodeId | undefined;

  constructor(private readonly options: VersionedOptions) {}

  /** Makes the files; then writers and readers work until `stop`. */
  async start(): Promise<void> {
    const { clients, files } = this.options;
    const [first] = clients;
    assert.ok(first !== undefined && clients.length > 1, 'a reader and a writer are needed');
    const node = { kind: 'directory', mode: 0o755 } as const;
    this.directory = (await first.fs.makeNode(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from(VERSIONED), node)).inode;
    for (let count = 0; count < files; count++) await this.add(clients);
  }

  /** Makes one file more, and sets a writer and readers to work. */
  async add(clients: readonly VersionedClient[]): Promise<void> {
    const { random } = this.options;
    const number = this.made++;
    const writer = clients[number % clients.length] ?? assert.fail('a writer is needed');
    const start = random.below(5) === 0 ? CHUNK_SIZE_BYTES - PAGE_BYTES * (1 + random.below(20)) : 0;
    const file = new VersionedFile(number, start, random.below(4) === 0, random.below(2) === 0);
    await this.create(writer, file);
    this.files.push(file);
    this.work(file, writer, (mine) => this.write(writer, file, mine));
    for (const reader of clients) {
      if (reader === writer) continue;
      // Who looks seldom goes by what he knew about the chunks before.
      const restMs = pick(random, [1_000, 5_000, 25_000]);
      this.work(file, reader, (mine) =>
        mine.below(3) === 0 ? this.hold(reader, file, mine) : this.read(reader, file, mine, restMs),
      );
    }
  }

  /** No new work; resolves when all that is under way has ended. */
  async stop(): Promise<void> {
    this.isStopped = true;
    await Promise.all(this.running);
  }

  /** Nobody begins to write, and what was under way has ended, until the function that is returned is called. */
  async holdWrites(): Promise<() => void> {
    this.areWritesHeld = true;
    while (this.files.some(({ isBusy }) => isBusy)) await this.options.world.sleep(100);
    return () => {
      this.areWritesHeld = false;
    };
  }

  /** Every reader reads at once, time and again: what is wrong for a moment only is seen by those who look just then. */
  bustle(): void {
    this.bustlesUntilUs = this.options.world.clock.nowUs + BUSTLE_MS * 1000;
    for (const wake of this.resting) wake();
  }

  /** A reader's pause. */
  private rest(delayMs: number): Promise<void> {
    const { world, random } = this.options;
    if (world.clock.nowUs < this.bustlesUntilUs) return world.sleep(random.below(BUSTLE_PAUSE_MS));
    return new Promise((resolve) => {
      const wake = (): void => {
        this.resting.delete(wake);
        resolve();
      };
      this.resting.add(wake);
      world.clock.schedule(delayMs * 1000, wake);
    });
  }

  /** What is under way still waits for trouble of before. */
  timeCalls(): void {
    this.slowest = { what: 'none', tookMs: 0 };
    this.timedFromUs = this.options.world.clock.nowUs;
  }

  /** Power failed at every replica, or at the master; or the only replicas that did not lose anything are given up. */
  losePower(): void {
    this.losses++;
    for (const file of this.files) file.losePower(this.losses);
  }

  /** The master's backup is made now. */
  backup(): Backup {
    return new Map(this.files.map((file) => [file, file.isBusy ? -1 : file.attempts]));
  }

  /** The master was put back to it: files made since are gone, the content of those written since is anybody's guess. */
  putBack(backup: Backup): void {
    this.losses++;
    for (const file of this.files) {
      const attempts = backup.get(file);
      if (attempts === undefined) file.isForgotten = true;
      else if (attempts !== file.attempts) file.doubt(this.losses);
      else file.losePower(this.losses);
    }
    this.files = this.files.filter((file) => !file.isForgotten);
  }

  /** All is well: a fresh client must read everything, whole. */
  async check(fs: FileSystem): Promise<void> {
    for (const file of this.files) {
      if (file.isDoubtful) continue;
      const least = file.committed();
      const what = `f${file.number}, read at the end`;
      const opened = await fs.openAt(ROOT_CREDENTIALS, this.home(), file.name, READ);
      if (this.mayLoseBlocks) await this.checkPages(file, opened.file, least, what);
      else this.demand(file, await opened.file.read(file.start, file.pages.length * PAGE_BYTES), 0, least, what);
      await opened.file.close();
    }
  }

  /** Each page is right, or cannot be read. */
  private async checkPages(
    file: VersionedFile,
    opened: OpenFile,
    least: readonly number[],
    what: string,
  ): Promise<void> {
    for (let page = 0; page < file.pages.length; page++) {
      try {
        this.demand(file, await opened.read(file.start + page * PAGE_BYTES, PAGE_BYTES), page, least, what);
      } catch (error) {
        if (asCairnError(error).code !== 'EIO') throw error;
        this.counts.errors.set('EIO at the end', (this.counts.errors.get('EIO at the end') ?? 0) + 1);
      }
    }
  }

  private home(): InodeId {
    return this.directory ?? assert.fail('not started');
  }

  /** One program: again and again, with pauses of its own random numbers. */
  private work(file: VersionedFile, client: VersionedClient, step: (random: Random) => Promise<void>): void {
    const { world } = this.options;
    const random = new SeededRandom(this.options.random.below(2 ** 32));
    const loop = async (): Promise<void> => {
      while (!this.isStopped && !file.isForgotten) {
        await world.awake(client.host);
        await step(random);
      }
    };
    const running = loop();
    this.running.push(running);
    world.background(() => running);
  }

  private async create(writer: VersionedClient, file: VersionedFile): Promise<void> {
    const { random } = this.options;
    const pages = 1 + random.below(40);
    // Before some there is a hole, which reads as zeros (P5).
    const first = random.below(3) === 0 ? random.below(4) : 0;
    const options = { mode: 0o644, flags: READ_WRITE };
    const made = await writer.fs.create(ROOT_CREDENTIALS, this.home(), file.name, options);
    for (let hole = 0; hole < first; hole++) file.leave(hole);
    const { version, bytes } = file.attempt(first, pages);
    await made.file.write(file.start + first * PAGE_BYTES, bytes);
    await made.file.sync();
    await made.file.close();
    file.commit(first, pages, version, 'synced');
  }

  /** Writes some pages, or appends some, and makes them durable, or only closes. */
  private async write(writer: VersionedClient, file: VersionedFile, random: Random): Promise<void> {
    const { world } = this.options;
    await world.sleep(file.isCold ? 20_000 + random.below(80_000) : 200 + random.below(5_000));
    await world.awake(writer.host);
    if (this.isStopped || this.areWritesHeld) return this.rest(500);
    const isWhole = !file.isLog && random.below(3) > 0;
    const length = file.pages.length;
    const first = file.isLog ? length : isWhole ? 0 : random.below(length);
    const count = isWhole ? length : file.isLog ? 1 + random.below(3) : 1 + random.below(length - first);
    if (file.isLog && length > MAX_LOG_PAGES) return;
    const { version, bytes } = file.attempt(first, count);
    const at = file.start + first * PAGE_BYTES;
    const syncs = random.below(4) > 0;
    const { losses } = this;
    file.isBusy = true;
    const isDone = await this.call(file, 'write', async () => {
      const { file: opened } = await writer.fs.openAt(ROOT_CREDENTIALS, this.home(), file.name, READ_WRITE);
      await this.closing(opened, async () => {
        if (random.below(4) > 0) await opened.write(at, bytes);
        else {
          for (let done = 0; done < bytes.length; done += PIECE_BYTES) {
            await opened.write(at + done, bytes.subarray(done, done + PIECE_BYTES));
          }
        }
        if (syncs) await opened.sync();
      });
      return true;
    });
    file.isBusy = false;
    // What was not synced when power failed may be gone, and only an fsync tells.
    if (isDone !== true || (!syncs && losses !== this.losses)) return;
    this.counts.writes++;
    if (isWhole) file.isDoubtful = false;
    file.commit(first, count, version, syncs ? 'synced' : 'closed');
  }

  /** Opens, reads and closes. */
  private async read(reader: VersionedClient, file: VersionedFile, random: Random, restMs: number): Promise<void> {
    const { world } = this.options;
    await this.rest(random.below(restMs));
    await world.awake(reader.host);
    const least = this.least(file);
    await this.call(file, 'read', async () => {
      const { file: opened } = await reader.fs.openAt(ROOT_CREDENTIALS, this.home(), file.name, READ);
      await this.closing(opened, () => this.readSome(opened, file, random, least));
    });
  }

  /** Keeps the file open and reads it time and again: what he read ahead may be old, but not older than his open. */
  private async hold(reader: VersionedClient, file: VersionedFile, random: Random): Promise<void> {
    const { world } = this.options;
    const least = this.least(file);
    await this.call(file, 'hold', async () => {
      const { file: opened } = await reader.fs.openAt(ROOT_CREDENTIALS, this.home(), file.name, READ);
      await this.closing(opened, async () => {
        for (let count = 2 + random.below(12); count > 0 && !this.isStopped; count--) {
          await this.readSome(opened, file, random, least);
          await this.rest(random.below(4_000));
          await world.awake(reader.host);
        }
      });
    });
  }

  private async readSome(opened: OpenFile, file: VersionedFile, random: Random, opening: Least): Promise<void> {
    const { length } = opening.versions;
    if (length === 0) return;
    const isWhole = random.below(3) > 0;
    const first = isWhole ? 0 : random.below(length);
    const count = isWhole ? length : 1 + random.below(length - first);
    const bytes = await opened.read(file.start + first * PAGE_BYTES, count * PAGE_BYTES);
    this.counts.reads++;
    if (file.isForgotten) return;
    // What was seen to be there may have gone with the power meanwhile.
    const least = file.keptOf(opening);
    const wanted = Math.min(count, Math.max(0, least.findLastIndex((version) => version > 0) + 1 - first));
    if (bytes.length < wanted * PAGE_BYTES) {
      assert.fail(
        `P2: f${file.number}: ${bytes.length} bytes from page ${first} on, and ${wanted} pages were closed before`,
      );
    }
    this.demand(file, bytes, first, least, 'read');
  }

  private least(file: VersionedFile): Least {
    return { versions: file.committed(), losses: this.losses };
  }

  private demand(file: VersionedFile, bytes: Buffer, first: number, least: readonly number[], what: string): void {
    const wrong = file.judge(bytes, first, least);
    if (wrong !== undefined) assert.fail(`P1, P2, P9: ${what}: ${wrong}`);
  }

  private async closing<T>(opened: OpenFile, action: () => Promise<T>): Promise<T> {
    let result: T;
    try {
      result = await action();
    } catch (error) {
      await opened.close().catch(() => undefined);
      throw error;
    }
    await opened.close();
    return result;
  }

  /** Runs a call that may fail; what it may not say fails the run. */
  private async call<T>(file: VersionedFile, kind: string, action: () => Promise<T>): Promise<T | undefined> {
    const { world } = this.options;
    const what = `${kind} of f${file.number}`;
    const beganUs = world.clock.nowUs;
    world.trace.add(`versioned begin ${what}`);
    try {
      const result = await action();
      world.trace.add(`versioned end ${what}`);
      return result;
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      const { code, message } = asCairnError(error);
      if (!HONEST.has(code) && !file.isForgotten) throw new Error(`${what}: ${code}: ${message}`, { cause: error });
      this.counts.errors.set(code, (this.counts.errors.get(code) ?? 0) + 1);
      world.trace.add(`versioned ${what}: ${code} ${message}`);
      return undefined;
    } finally {
      const tookMs = (world.clock.nowUs - beganUs) / 1000;
      // Who holds a file rests in between.
      const isTimed = kind !== 'hold' && beganUs >= this.timedFromUs;
      if (isTimed && tookMs > this.slowest.tookMs) this.slowest = { what, tookMs };
    }
  }
}
