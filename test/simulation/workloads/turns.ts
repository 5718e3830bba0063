/**
 * Programs on two clients that take turns at one file. What each call said is kept beside what the file may hold by it, block
 * by block: what was acknowledged, and either of both where a call failed.
 */
import assert from 'node:assert/strict';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { CairnError } from '../../../src/core/errors.js';
import { CHUNK_SIZE_BYTES, KIB } from '../../../src/core/limits.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { LockRequest, OpenFile, OpenFlags } from '../../../src/filesystem/filesystem.js';
import { READ_WRITE, root } from '../world/story.js';
import { StruckMessage } from '../faults/struck-message.js';
import type { Strike } from '../faults/struck-message.js';
import { World } from '../world/world.js';

const BLOCK = 8 * KIB;
/** Of the file; its content is told by a letter for each. */
const BLOCKS = 16;
const ZERO = '-';
const TORN = '?';
const NAME = Buffer.from('f');
const SOURCE = Buffer.from('source');
/** What a program may be told when its servers are out of reach, or its session is lost. */
const TOLD = ['EIO', 'TIMEOUT', 'EAGAIN'];

type Change =
  | { readonly kind: 'write'; readonly at: number | 'end'; readonly letters: string }
  | { readonly kind: 'zero'; readonly at: number; readonly count: number }
  | { readonly kind: 'size'; readonly size: number; readonly isDone: boolean };

/** What a file may hold. */
class Allowed {
  private blocks = Array.from({ length: BLOCKS }, () => new Set([ZERO]));
  /** In blocks. */
  private sizes = new Set([0]);

  /** `isSure`: it was acknowledged. */
  apply(change: Change, isSure: boolean): void {
    const before = [...this.sizes];
    if (change.kind === 'size') {
      const { size, isDone } = change;
      // What was given up past the end is cut only where the file is.
      const isCut = isDone && before.every((known) => known >= size);
      for (let i = Math.min(size, ...before); i < BLOCKS; i++) this.put(i, ZERO, isCut && i >= size);
      this.sizes = new Set(isDone ? [size] : [...before, size]);
      return;
    }
    if (change.kind === 'zero') {
      for (let i = 0; i < change.count; i++) this.put(change.at + i, ZERO, isSure);
      return;
    }
    const { at, letters } = change;
    const places = at === 'end' ? before : [at];
    const isCertain = isSure && places.length === 1;
    for (const place of places) [...letters].forEach((letter, i) => this.put(place + i, letter, isCertain));
    const after = before.map((size) => Math.max(size, (at === 'end' ? size : at) + letters.length));
    this.sizes = new Set(after);
    // Of what failed, any part may have been done.
    if (!isSure) for (let size = Math.min(...before); size < Math.max(...after); size++) this.sizes.add(size);
  }

  private put(at: number, letter: string, isCertain: boolean): void {
    const known = this.blocks[at] ?? new Set();
    if (isCertain) known.clear();
    known.add(letter);
  }

  /** Throws when `seen` is not allowed. */
  check(seen: string, where: string): void {
    const isAllowed = (letter: string, i: number): boolean => {
      const known = this.blocks[i] ?? new Set();
      return known.has(letter) || (letter === TORN && known.size > 1);
    };
    if (this.sizes.has(seen.length) && [...seen].every(isAllowed)) return;
    const blocks = this.blocks.map((known) => (known.size === 1 ? [...known].join('') : `[${[...known].join('')}]`));
    assert.fail(`${where} sees ${seen}, allowed is ${blocks.join('')} of ${[...this.sizes].join(' or ')} blocks`);
  }

  /**
   * From now on it is what was seen, but past the end: what was given up there shows when others make the file longer, unless
   * it was cut before.
   */
  settle(seen: string): void {
    this.sizes = new Set([seen.length]);
    this.blocks.forEach((known, i) => this.put(i, seen[i] ?? ZERO, i < seen.length || known.size === 0));
  }
}

/** A program on a client, with one handle at a time. Each call says whether it succeeded. */
export class Program {
  private file: OpenFile | undefined;
  private isAppending = false;
  /** Not yet known to be on the chunkservers and with the master. */
  private readonly pending: Change[] = [];

  constructor(
    private readonly turns: Turns,
    private readonly name: string,
    private readonly fs: ClusterFileSystem,
  ) {}

  private async try(what: string, call: () => Promise<unknown>): Promise<boolean> {
    try {
      await call();
      this.turns.messages.note(`${this.name} ${what}`);
      return true;
    } catch (error) {
      if (!(error instanceof CairnError) || !TOLD.includes(error.code)) throw error;
      this.turns.messages.note(`${this.name} ${what}: ${error.code} ${error.message}`);
      return false;
    }
  }

  private settlePending(isSure: boolean): void {
    for (const change of this.pending.splice(0)) this.turns.allowed.apply(change, isSure);
  }

  async open(flags: Partial<OpenFlags> = {}): Promise<boolean> {
    const options = { mode: 0o644, flags: { ...READ_WRITE, ...flags } };
    const isOpen = await this.try('opens', async () => {
      this.file = (await this.fs.create(root, ROOT_INODE, NAME, options)).file;
    });
    if (flags.truncate === true) this.turns.allowed.apply({ kind: 'size', size: 0, isDone: isOpen }, isOpen);
    this.isAppending = flags.append === true;
    return isOpen;
  }

  private async change(what: string, change: Change, call: (file: OpenFile) => Promise<unknown>): Promise<boolean> {
    const { file } = this;
    if (file === undefined) return false;
    this.pending.push(change);
    const isDone = await this.try(what, () => call(file));
    if (!isDone) this.settlePending(false);
    return isDone;
  }

  write(from: number, letters: string): Promise<boolean> {
    const at = this.isAppending ? 'end' : from;
    const bytes = Buffer.concat([...letters].map((letter) => Buffer.alloc(BLOCK, letter)));
    const call = (file: OpenFile): Promise<unknown> => file.write(this.turns.base + from * BLOCK, bytes);
    return this.change(`writes ${letters} at ${at}`, { kind: 'write', at, letters }, call);
  }

  /** Makes zeros of blocks of the file. */
  zero(at: number, count: number, mode: 'punchHole' | 'zeroRange'): Promise<boolean> {
    const call = (file: OpenFile): Promise<unknown> =>
      file.allocate(this.turns.base + at * BLOCK, count * BLOCK, { [mode]: true, keepSize: true });
    return this.change(`${mode} ${at} ${count}`, { kind: 'zero', at, count }, call);
  }

  /** Copies from the file that is all of this letter. */
  async copy(source: OpenFile, letter: string, at: number, count: number): Promise<boolean> {
    const call = async (file: OpenFile): Promise<void> => {
      const end = count * BLOCK;
      let copied = 0;
      while (copied < end) {
        copied += await file.copyFrom(source, copied, this.turns.base + at * BLOCK + copied, end - copied);
      }
    };
    return this.change(`copies to ${at} ${count}`, { kind: 'write', at, letters: letter.repeat(count) }, call);
  }

  async truncate(size: number): Promise<boolean> {
    const { file } = this;
    if (file === undefined) return false;
    const bytes = size === 0 ? 0 : this.turns.base + size * BLOCK;
    const isDone = await this.try(`truncates to ${size}`, () => file.truncate(bytes));
    this.pending.push({ kind: 'size', size, isDone });
    if (!isDone) this.settlePending(false);
    return isDone;
  }

  private async confirm(what: string, call: (file: OpenFile) => Promise<unknown>): Promise<boolean> {
    const { file } = this;
    if (file === undefined) return false;
    const isDone = await this.try(what, () => call(file));
    this.settlePending(isDone);
    return isDone;
  }

  flush(): Promise<boolean> {
    return this.confirm('flushes', (file) => file.flush());
  }

  sync(): Promise<boolean> {
    return this.confirm('syncs', (file) => file.sync());
  }

  async close(): Promise<boolean> {
    const isDone = await this.confirm('closes', (file) => file.close());
    this.file = undefined;
    return isDone;
  }

  private async setLock(type: 'write' | 'unlock'): Promise<boolean> {
    const { file } = this;
    if (file === undefined) return false;
    const lock: LockRequest = { kind: 'posix', owner: this.name, type, start: 0, end: MAX_LOCK_END, pid: 1 };
    return this.try(type === 'unlock' ? 'unlocks' : 'locks', () =>
      this.fs.setLock(file.inode, lock, { wait: type === 'write' }),
    );
  }

  lock(): Promise<boolean> {
    return this.setLock('write');
  }

  unlock(): Promise<boolean> {
    return this.setLock('unlock');
  }

  /** What the file holds now, it holds from then on: nobody else is in the middle of changing it. */
  async look(): Promise<boolean> {
    const { file, turns } = this;
    if (file === undefined) return false;
    let seen = '';
    const isRead = await this.try('reads', async () => {
      seen = await this.content(file);
    });
    if (!isRead) return false;
    turns.messages.note(`${this.name} sees ${seen}`);
    turns.allowed.check(seen, this.name);
    turns.allowed.settle(seen);
    return true;
  }

  private async content(file: OpenFile): Promise<string> {
    const { base } = this.turns;
    const { size } = await file.attributes();
    const bytes = await file.read(base, Math.max(0, size - base) + 1);
    let seen = '';
    for (let at = 0; at < bytes.length; at += BLOCK) {
      const block = bytes.subarray(at, at + BLOCK);
      const [first = 0] = block;
      const isWhole = block.length === BLOCK && block.every((byte) => byte === first);
      seen += !isWhole ? TORN : first === 0 ? ZERO : String.fromCharCode(first);
    }
    return seen;
  }
}

interface Turns {
  readonly messages: StruckMessage;
  readonly allowed: Allowed;
  /** Where the first block is. */
  readonly base: number;
}

interface Cast {
  readonly world: World;
  readonly a: Program;
  readonly b: Program;
  /** Of `a`, which fills four blocks with S. */
  readonly source: OpenFile;
}

/** What the programs do; they go on whatever they are told. */
export const COURSES: Readonly<Record<string, (cast: Cast) => Promise<void>>> = {
  async closing({ a, b }) {
    await a.open();
    await a.write(0, 'AA');
    await a.close();
    await b.open();
    await b.look();
    await b.write(1, 'BB');
    await b.close();
    await a.open();
    await a.look();
    await a.write(0, 'C');
    await a.sync();
    await a.write(5, 'DD');
    await a.close();
    await b.open();
    await b.look();
    await b.close();
  },
  async appending({ a, b }) {
    for (const [program, other, letter] of [
      [a, b, 'A'],
      [b, a, 'B'],
      [a, b, 'C'],
    ] as const) {
      await program.open({ append: true });
      await program.write(0, letter);
      await program.flush();
      await program.close();
      await other.open();
      await other.look();
      await other.close();
    }
  },
  async cutting({ a, b }) {
    await a.open();
    await a.write(4, 'AA');
    await a.truncate(2);
    await a.write(4, 'B');
    await a.close();
    await b.open({ truncate: true });
    await b.write(0, 'CCC');
    await b.close();
    await a.open();
    await a.look();
    await a.truncate(1);
    await a.truncate(6);
    await a.close();
    await b.open();
    await b.look();
    await b.write(8, 'D');
    await b.sync();
    await b.close();
  },
  async locking({ a, b }) {
    await a.open();
    await b.open();
    for (const [program, letter] of [
      [a, 'A'],
      [b, 'B'],
      [a, 'C'],
      [b, 'D'],
    ] as const) {
      if ((await program.lock()) && (await program.look())) {
        await program.write(letter.charCodeAt(0) - 64, letter + letter);
        await program.flush();
        await program.write(0, letter);
        await program.flush();
      }
      if (await program.unlock()) continue;
      await program.close();
      await program.open();
    }
  },
  async waiting({ world, a, b }) {
    await a.open();
    await a.write(1, 'AA');
    await a.write(5, 'A');
    await world.sleep(1_500);
    await a.write(2, 'B');
    await world.sleep(1_500);
    await a.close();
    await b.open();
    await b.look();
    await b.truncate(3);
    await b.write(6, 'C');
    await b.close();
  },
  async copying({ a, b, source }) {
    await a.open();
    await a.copy(source, 'S', 1, 3);
    await a.zero(2, 1, 'punchHole');
    await a.flush();
    await a.copy(source, 'S', 4, 4);
    await a.zero(0, 2, 'zeroRange');
    await a.close();
    await b.open();
    await b.look();
    await b.zero(3, 2, 'punchHole');
    await b.write(3, 'B');
    await b.close();
    await a.open();
    await a.look();
    await a.copy(source, 'S', 0, 2);
    await a.close();
  },
};

export interface TurnsOptions {
  readonly seed: number;
  readonly course: string;
  readonly message: number;
  readonly strike: Strike;
  /** The file lies across the end of a chunk. */
  readonly straddles?: boolean;
  /** Clients that give up sooner leave more in doubt. */
  readonly operationTimeoutMs?: number;
  /** Until all is settled. */
  readonly settleMs?: number;
}

/** Returns how many messages there were. Throws when somebody sees what is not allowed, or what does not stay. */
export async function takeTurns(options: TurnsOptions): Promise<number> {
  const { seed, course, message, strike, operationTimeoutMs, settleMs = 20_000 } = options;
  const world = new World({ seed });
  const messages = new StruckMessage(world);
  const turns: Turns = {
    ...{ messages, allowed: new Allowed() },
    base: options.straddles === true ? CHUNK_SIZE_BYTES - 2 * BLOCK : 0,
  };
  try {
    await world.run(async () => {
      await world.startAll();
      const tunables = operationTimeoutMs === undefined ? {} : { operationTimeoutMs };
      const [one, two] = [await world.connect('client-1', tunables), await world.connect('client-2', tunables)];
      const [a, b] = [new Program(turns, 'a', one), new Program(turns, 'b', two)];
      const { file: source } = await one.create(root, ROOT_INODE, SOURCE, { mode: 0o644, flags: READ_WRITE });
      await source.write(0, Buffer.alloc(4 * BLOCK, 'S'));
      await source.sync();
      await a.open();
      await a.write(0, 'oooo');
      assert.ok(await a.sync());
      assert.ok(await a.close());
      await world.sleep(5_000);
      messages.begin(message, strike);
      await COURSES[course]?.({ world, a, b, source });
      await a.close();
      await b.close();
      messages.end();
      for (const name of ['client-3', 'client-4']) {
        await world.sleep(settleMs);
        const late = await world.connect(name);
        for (const program of [new Program(turns, name, late), a, b]) {
          assert.ok((await program.open()) && (await program.look()), 'all is well by now');
          // The first is told what only a close has told.
          assert.ok((await program.sync()) || (await program.sync()));
          assert.ok(await program.close());
        }
        await late.close();
      }
    });
    return messages.count;
  } catch (error) {
    const what = error instanceof Error ? error.message : String(error);
    throw new Error(`${JSON.stringify(options)}: ${what}\n${messages.events.join('\n')}`, { cause: error });
  } finally {
    world.stop();
  }
}
