/**
 * Programs of one client that write, punch, copy, cut and sync parts of one file, through handles that come and go, by its name and by
 * what is open, while another client overwrites parts of it without a sync; and that replace small files by renames, and change
 * attributes by path.
 *
 * What is judged (P1): each part belongs to one program, which knows what it wrote there, in order. Once a sync has returned 0, the part
 * holds what the program had written last before it, or something that was written later, whatever power is lost. Where a call failed it
 * is not known what is there until the next write has succeeded. And (P7): while nothing can be lost, no call fails.
 */
import assert from 'node:assert/strict';
import { asCairnError } from '../../../src/core/errors.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES } from '../../../src/core/limits.js';
import type { Random } from '../../../src/core/random.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { OpenFile, OpenFlags } from '../../../src/filesystem/filesystem.js';
import { READ_WRITE, root } from '../world/story.js';
import type { World } from '../world/world.js';
import { Promised } from '../judges/promised.js';

export interface SharedFileOptions {
  readonly world: World;
  readonly random: Random;
  /** The client of the programs, and the other one. */
  readonly one: ClusterFileSystem;
  readonly two: ClusterFileSystem;
  readonly programs: number;
  readonly steps: number;
  /** Calls may fail: unsynced bytes, or operations, are lost now and then. */
  readonly mayFail: boolean;
}

const NAME = Buffer.from('shared');
const DOCUMENT = Buffer.from('document');
const NEW_DOCUMENT = Buffer.from('new');
const CHUNKS = 3;
const BLOCKS_PER_CHUNK = 3;
/** Of the file, past what all but the first program write. */
const TAIL = CHUNKS * CHUNK_SIZE_BYTES;
const SIZE = TAIL + BLOCKS_PER_CHUNK * BLOCK_SIZE_BYTES;
const PAUSE_MS = 400;
const LONG_PAUSE_MS = 3_000;
const RETRY_MS = 1_000;
const FIRST_MODE = 0o600;

/** A part of the file. */
interface Block {
  readonly at: number;
  readonly holds: Promised;
  /** What it was changed through last: told of what is lost of that, as long as it is open. */
  through: OpenFile | undefined;
}

/** A block of a version; that of 0 is zeros. */
function content(version: number): Buffer {
  const bytes = Buffer.alloc(BLOCK_SIZE_BYTES);
  if (version > 0) for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(version, at);
  return bytes;
}

/** All of a block is what may be there. */
function check(what: string, found: Buffer, holds: Promised): void {
  const bytes = Buffer.alloc(BLOCK_SIZE_BYTES);
  found.copy(bytes);
  for (let at = 0; at < bytes.length; at += 4) holds.demand(bytes.readUInt32LE(at), `${what}, byte ${at}`);
}

export class SharedFile {
  /** How often each kind of step was done. */
  readonly counts = new Map<string, number>();
  private readonly programs: Program[] = [];
  private version = 0;

  constructor(readonly options: SharedFileOptions) {}

  nextVersion(): number {
    return ++this.version;
  }

  /** A call failed: what was changed through handles that are closed by now may have been lost, and that is told once. */
  failed(): void {
    for (const program of this.programs) program.doubtClosed();
  }

  count(kind: string): void {
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
  }

  /** All programs from beginning to end. */
  async run(): Promise<void> {
    const { one, programs } = this.options;
    const { file } = await one.create(root, ROOT_INODE, NAME, { mode: FIRST_MODE, flags: READ_WRITE });
    await file.truncate(SIZE);
    await file.sync();
    for (let id = 0; id < programs; id++) {
      const name = Buffer.from(`directory-${id}`);
      const { inode } = await one.makeNode(root, ROOT_INODE, name, { kind: 'directory', mode: 0o755 });
      this.programs.push(new Program(this, id, file.inode, inode));
    }
    await one.syncMetadata();
    await file.close();
    await Promise.all(this.programs.map((program) => program.run()));
  }

  /** What a client that knows nothing finds. */
  async check(fresh: ClusterFileSystem): Promise<void> {
    for (const program of this.programs) await program.check(fresh);
  }
}

class Program {
  private readonly blocks: Block[] = [];
  /** Those that it cuts off now and then. */
  private readonly tail: Block[] = [];
  private readonly mode = new Promised(FIRST_MODE);
  /** What is in a file in a directory of its own, which is replaced by renames; 0 when it is empty or not there. */
  private readonly document = new Promised(0);
  private file: OpenFile | undefined;

  constructor(
    private readonly shared: SharedFile,
    private readonly id: number,
    private readonly inode: OpenFile['inode'],
    private readonly directory: OpenFile['inode'],
  ) {
    const blocksAt = (start: number): Block[] =>
      Array.from({ length: BLOCKS_PER_CHUNK }, (_, index) => ({
        at: start + index * BLOCK_SIZE_BYTES,
        holds: new Promised(0),
        through: undefined,
      }));
    // A block of nobody lies between those of two programs.
    const own = id * (BLOCKS_PER_CHUNK + 1) * BLOCK_SIZE_BYTES;
    for (let chunk = 0; chunk < CHUNKS; chunk++) this.blocks.push(...blocksAt(chunk * CHUNK_SIZE_BYTES + own));
    if (this.isFirst) this.tail.push(...blocksAt(TAIL));
    this.blocks.push(...this.tail);
  }

  /** It alone changes what the file has once. */
  private get isFirst(): boolean {
    return this.id === 0;
  }

  private get promises(): Promised[] {
    return [...this.blocks.map(({ holds }) => holds), this.mode];
  }

  async run(): Promise<void> {
    const { world, random, steps } = this.shared.options;
    for (let step = 0; step < steps; step++) {
      await world.sleep(random.below(PAUSE_MS));
      await this.attempt(() => this.step());
    }
    for (let isDone = false; !isDone;) {
      isDone = await this.attempt(async () => this.syncThrough(await this.open()));
      if (!isDone) await world.sleep(RETRY_MS);
    }
    await this.attempt(() => this.close());
  }

  async check(fresh: ClusterFileSystem): Promise<void> {
    const { file, attributes } = await fresh.openAt(root, ROOT_INODE, NAME, READ_WRITE);
    for (const { at, holds } of this.blocks) {
      check(`program ${this.id}, block at ${at}`, await file.read(at, BLOCK_SIZE_BYTES), holds);
    }
    await file.close();
    if (this.isFirst) this.mode.demand(attributes.mode & 0o777, 'mode');
    const document = await fresh.openAt(root, this.directory, DOCUMENT, READ_WRITE).catch(() => undefined);
    const bytes = await document?.file.read(0, BLOCK_SIZE_BYTES);
    check(`document ${this.id}`, bytes ?? Buffer.alloc(0), this.document);
    await document?.file.close();
  }

  /** What fails leaves everything that is not synced in doubt. */
  private async attempt(work: () => Promise<void>): Promise<boolean> {
    const { random, mayFail } = this.shared.options;
    try {
      await work();
      return true;
    } catch (error) {
      const { code, message } = asCairnError(error);
      if (!mayFail || (code !== 'EIO' && code !== 'ETIMEDOUT')) throw error;
      this.say(`failed: ${message}`);
      this.shared.count('failed');
      for (const promise of [...this.promises, this.document]) promise.doubt();
      this.shared.failed();
      if (random.below(3) === 0) await this.close().catch(() => undefined);
      return false;
    }
  }

  doubtClosed(): void {
    for (const { holds, through } of this.blocks) {
      if (through === undefined || through !== this.file) holds.doubt();
    }
  }

  private step(): Promise<void> {
    const { world, random } = this.shared.options;
    const block = this.blocks[random.below(this.blocks.length)];
    assert.ok(block !== undefined);
    switch (random.below(16)) {
      case 0:
      case 1:
      case 2:
        return this.write(block);
      case 3:
        return this.zero(block);
      case 4:
        return this.overwriteElsewhere(block);
      case 5:
        return this.copy(block);
      case 6:
      case 7:
      case 8:
      case 9:
        return this.sync();
      case 10:
        return this.close();
      case 11:
        return this.read(block);
      case 12:
        return this.replaceDocument();
      case 13:
        return this.isFirst ? this.cut() : this.write(block);
      case 14:
        return this.isFirst ? this.changeMode() : this.write(block);
      default:
        return world.sleep(random.below(LONG_PAUSE_MS));
    }
  }

  private async open(): Promise<OpenFile> {
    this.file ??= await this.openOf(this.shared.options.one, READ_WRITE);
    return this.file;
  }

  private async openOf(fs: ClusterFileSystem, flags: OpenFlags): Promise<OpenFile> {
    return (await fs.openAt(root, ROOT_INODE, NAME, flags)).file;
  }

  private async close(): Promise<void> {
    const { file } = this;
    this.file = undefined;
    if (file === undefined) return;
    this.note('close');
    await file.close();
  }

  private async write(block: Block): Promise<void> {
    const { at, holds } = block;
    const version = this.shared.nextVersion();
    holds.begins(version);
    this.note(`write ${version} at ${at}`);
    block.through = await this.open();
    await block.through.write(at, content(version));
    holds.ended(version);
  }

  private async zero(block: Block): Promise<void> {
    const { at, holds } = block;
    const mode = this.shared.options.random.below(2) === 0 ? { punchHole: true } : { zeroRange: true };
    holds.begins(0);
    this.note(`zero at ${at}`);
    block.through = await this.open();
    await block.through.allocate(at, BLOCK_SIZE_BYTES, { keepSize: true, ...mode });
    holds.ended(0);
  }

  /** The other client writes there, and does not always sync it. This one may write zeros on top. */
  private async overwriteElsewhere(block: Block): Promise<void> {
    const { random, two } = this.shared.options;
    const { at, holds } = block;
    const version = random.below(2) === 0 ? 0 : this.shared.nextVersion();
    await (await this.open()).flush();
    holds.begins(version);
    this.note(`overwrite elsewhere ${version} at ${at}`);
    const theirs = await this.openOf(two, READ_WRITE);
    try {
      await (version === 0 && random.below(2) === 0
        ? theirs.allocate(at, BLOCK_SIZE_BYTES, { keepSize: true, punchHole: true })
        : theirs.write(at, content(version)));
      await theirs.flush();
      holds.ended(version);
      if (random.below(3) === 0) {
        const synced = holds.syncing();
        await theirs.sync();
        synced();
      } else holds.doubt();
    } finally {
      await theirs.close();
    }
    if (random.below(2) === 0) await this.close();
    if (random.below(2) === 0) await this.zero(block);
  }

  private async copy(block: Block): Promise<void> {
    const { at, holds } = block;
    const from = this.blocks[this.shared.options.random.below(this.blocks.length)];
    if (from === undefined || from.at === at) return;
    const { value } = from.holds;
    holds.beginsAs(from.holds);
    this.note(`copy ${value ?? 'what is there'} from ${from.at} to ${at}`);
    const file = await this.open();
    block.through = file;
    const copied = await file.copyFrom(file, from.at, at, BLOCK_SIZE_BYTES);
    if (value !== undefined && copied === BLOCK_SIZE_BYTES) holds.ended(value);
    else holds.doubt();
  }

  private async read({ at, holds }: Block): Promise<void> {
    check(`read at ${at}`, await (await this.open()).read(at, BLOCK_SIZE_BYTES), holds);
  }

  /** The end of the file goes away, by name or by what is open, and comes back as zeros. */
  private async cut(): Promise<void> {
    const { random, one } = this.shared.options;
    const kept = random.below(this.tail.length);
    const setSize = async (size: number): Promise<unknown> =>
      random.below(2) === 0 ? one.setAttributes(root, this.inode, { size }) : (await this.open()).truncate(size);
    const cut = this.tail.slice(kept).map(({ holds }) => holds);
    for (const holds of cut) holds.begins(0);
    this.note(`cut to ${kept} blocks`);
    await setSize(TAIL + kept * BLOCK_SIZE_BYTES);
    await setSize(SIZE);
    for (const holds of cut) holds.ended(0);
  }

  private async changeMode(): Promise<void> {
    const { random, one } = this.shared.options;
    const mode = random.below(0o1000);
    this.mode.begins(mode);
    this.note(`mode ${mode}`);
    await one.setAttributes(root, this.inode, { mode });
    this.mode.ended(mode);
  }

  private async sync(): Promise<void> {
    const { random, one } = this.shared.options;
    const how = random.below(3);
    if (how === 0) await this.close();
    if (how !== 1) return this.syncThrough(await this.open());
    const other = await this.openOf(one, { read: true, write: false });
    try {
      await this.syncThrough(other);
    } finally {
      await other.close();
    }
  }

  private async syncThrough(file: OpenFile): Promise<void> {
    const synced = this.promises.map((promise) => promise.syncing());
    await file.sync();
    // What was lost of it is told to the handle that it was written through, if that is open.
    await this.file?.flush();
    for (const promise of synced) promise();
    this.note('synced');
  }

  /** Writes a file anew, in place or by a rename over it, and syncs that more often than not. */
  private async replaceDocument(): Promise<void> {
    const { random, one } = this.shared.options;
    const { document, directory: parent } = this;
    const isRenamed = random.below(2) === 0;
    const version = this.shared.nextVersion();
    const syncsFirst = random.below(4) > 0;
    if (!isRenamed || !syncsFirst) document.begins(0);
    document.begins(version);
    this.note(`document ${version}${isRenamed ? ' renamed' : ''}`);
    const name = isRenamed ? NEW_DOCUMENT : DOCUMENT;
    const flags = { ...READ_WRITE, truncate: true };
    const { file } = await one.create(root, parent, name, { mode: 0o644, flags });
    try {
      await file.write(0, content(version));
      if (syncsFirst) await file.sync();
      if (isRenamed) await one.rename(root, { parent, name }, { parent, name: DOCUMENT });
      document.ended(version);
      if (random.below(3) === 0) return;
      const synced = document.syncing();
      if (!isRenamed || !syncsFirst) await file.sync();
      await one.syncMetadata(parent);
      synced();
      this.note(`document ${version} synced`);
    } finally {
      await file.close();
    }
  }

  private note(what: string): void {
    this.shared.count(what.split(' ', 1)[0] ?? what);
    this.say(what);
  }

  private say(what: string): void {
    this.shared.options.world.trace.add(`program ${this.id} ${what}`);
  }
}
