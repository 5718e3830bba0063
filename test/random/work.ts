/**
 * The ground that one worker's operations stand on: the same operation is made on a mount and on the model, and results,
 * errors and attributes are compared. What comes next is drawn from the seed and from the model alone, so that the
 * operations of a seed are always the same, whatever the file system answers.
 */
import assert from 'node:assert/strict';
import { asCairnError } from '../../src/core/errors.js';
import type { ErrorCode } from '../../src/core/errors.js';
import { compareTimespec } from '../../src/core/clock.js';
import type { InodeId } from '../../src/core/ids.js';
import type { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import type { Attributes, FileKind, FileSystem, OpenFile } from '../../src/filesystem/filesystem.js';
import { kindOfMode } from '../../src/fuse/linux.js';
import { ModelFileSystem } from '../support/models/model-filesystem.js';
import { keyName, ModelState } from '../support/models/model-state.js';
import { compareAttributes, compareSettled, compareTimes, Difference, History } from './difference.js';
import { Tracked } from './tracked.js';
import type { Handle } from './tracked.js';

/** One of the two on which each operation is made. */
export interface Side {
  readonly name: 'real' | 'model';
  readonly fs: FileSystem;
  id(node: Tracked): InodeId;
  file(handle: Handle): OpenFile;
}

export interface Both<T> {
  readonly real: T;
  readonly model: T;
}

export interface WorkOptions {
  readonly name: string;
  readonly random: SeededRandom;
  readonly mounts: readonly FileSystem[];
  /** The worker's directory, empty, as each mount knows it. */
  readonly home: readonly InodeId[];
  /** Names and attributes are asked for anew each time: what one mount did, the others see at once. */
  readonly strict: boolean;
  readonly onOperation?: (() => void) | undefined;
  /** Told of an inode that nothing leads to any more. */
  readonly forget?: ((mount: number, inode: InodeId) => Promise<void>) | undefined;
}

/** Errors that mean the same to an application. */
const SAME: Partial<Record<ErrorCode, ErrorCode>> = { ESTALE: 'ENOENT' };

export class Work {
  readonly random: SeededRandom;
  readonly strict: boolean;
  readonly state = new ModelState();
  readonly home: Tracked;
  readonly nodes = new Map<InodeId, Tracked>();
  readonly handles = new Set<Handle>();
  /** The mount that the operations are made on now. */
  mount = 0;
  operations = 0;
  private handleNumber = 0;
  /** The operation that was made last. */
  private last = '';
  private readonly models: readonly ModelFileSystem[];
  private readonly history = new History();

  constructor(private readonly options: WorkOptions) {
    this.random = options.random;
    this.strict = options.strict;
    this.models = options.mounts.map(() => new ModelFileSystem(this.state));
    this.state.root.permissions = 0o777;
    this.home = this.track(this.state.root.id, 'directory');
    for (const [mount, id] of options.home.entries()) this.home.ids[mount] = id;
  }

  get name(): string {
    return this.options.name;
  }

  get mountCount(): number {
    return this.options.mounts.length;
  }

  get model(): ModelFileSystem {
    return this.models[this.mount] ?? assert.fail('no such mount');
  }

  /** Makes one operation on both sides; undefined when both failed, and alike. */
  async both<T>(
    what: string,
    nodes: readonly Tracked[],
    operation: (side: Side) => Promise<T>,
  ): Promise<Both<T> | undefined> {
    for (const node of nodes) await this.reach(node);
    return this.compared(what, nodes, operation);
  }

  /** As `both`, for nodes that the mount has open or looked up already. */
  async compared<T>(
    what: string,
    nodes: readonly Tracked[],
    operation: (side: Side) => Promise<T>,
  ): Promise<Both<T> | undefined> {
    const { mount } = this;
    this.operations++;
    this.options.onOperation?.();
    const model = await outcome(operation(this.side('model')));
    const line = `${this.options.name} #${this.operations} on ${'AB'[mount] ?? mount}: ${what}: ${model.code ?? 'ok'}`;
    this.history.add(line, nodes);
    this.last = line;
    const real = await outcome(operation(this.side('real')));
    if (real.code !== model.code) {
      const said = `${real.code ?? 'success'} (${real.message})`;
      this.fail(line, nodes, `the mount says ${said}, the model ${model.code ?? 'success'} (${model.message})`);
    }
    if (!('value' in real) || !('value' in model)) return undefined;
    return { real: real.value, model: model.value };
  }

  /** Runs `check`; what it throws is reported with the operations that touched `nodes`. */
  check(what: string, nodes: readonly Tracked[], check: () => void): void {
    try {
      check();
    } catch (error) {
      this.fail(`${this.options.name} #${this.operations} on ${'AB'[this.mount] ?? this.mount}: ${what}`, nodes, error);
    }
  }

  fail(what: string, nodes: readonly Tracked[], error: unknown): never {
    const reason = error instanceof Error ? error.message : String(error);
    const ids = nodes.map(({ id, kind }) => `${kind} ${id}`).join(', ');
    throw new Difference(`${what}\n${reason}\nthe last operations on ${ids}:\n${this.history.about(nodes)}`);
  }

  /** A node that came to be, or was looked up, on the mount of now. */
  found(made: Both<Attributes>): Tracked {
    let node = this.nodes.get(made.model.inode);
    if (node === undefined) {
      node = this.track(made.model.inode, kindOfMode(made.model.mode));
      this.history.add(this.last, [node]);
    }
    this.remember(node, made.real.inode);
    return node;
  }

  opened(
    made: Both<{ readonly file: OpenFile; readonly attributes: Attributes }>,
    how: Pick<Handle, 'as' | 'canRead' | 'canWrite' | 'append'>,
  ): Handle {
    const node = this.found({ real: made.real.attributes, model: made.model.attributes });
    const number = this.handleNumber++;
    const handle = { ...how, number, node, mount: this.mount, real: made.real.file, model: made.model.file, readTo: 0 };
    this.handles.add(handle);
    return handle;
  }

  /** Compares what the mount of now says about `nodes`, and sometimes what the others say. */
  async look(...nodes: readonly Tracked[]): Promise<void> {
    const others = this.strict && this.random.below(4) === 0;
    const from = this.mount;
    for (let i = 0; i < (others ? this.mountCount : 1); i++) {
      this.mount = (from + i) % this.mountCount;
      for (const node of new Set(nodes)) {
        if (!this.isReachable(node)) continue;
        await this.reach(node);
        const seen = {
          real: await this.real('stat', node, (fs, id) => fs.getAttributes(id)),
          model: this.state.inode(node.id).attributes(),
        };
        this.compareAttributes('stat', node, seen);
      }
    }
    this.mount = from;
    await this.forgetTheGone();
  }

  compareAttributes(what: string, node: Tracked, { real, model }: Both<Attributes>): void {
    const elsewhere = node.isDirtyElsewhere(this.mount);
    this.check(what, [node], () => {
      if (elsewhere) return compareSettled(real, model);
      compareAttributes(real, model);
      compareTimes(node.times, real, model, { mayMoveCtime: node.hasUnsettledCtime });
    });
    if (elsewhere) return;
    const moved = node.times !== undefined && compareTimespec(node.times.model.ctime, model.ctime) !== 0;
    if (node.dirty.size > 0 && moved && !node.wasWritten) node.hasUnsettledCtime = true;
    else if (node.dirty.size === 0 && this.strict) node.hasUnsettledCtime = false;
    node.wasWritten = false;
    node.times = { real, model };
  }

  /** The mount of now gave the directory another parent. */
  moved(node: Tracked): void {
    if (node.kind !== 'directory') return;
    for (let mount = 0; mount < this.mountCount; mount++) if (mount !== this.mount) node.movedFor.add(mount);
    node.movedFor.delete(this.mount);
  }

  /** All is flushed, and nothing older is believed any more. */
  settled(): void {
    for (const node of this.nodes.values()) {
      if (node.hasUnsettledCtime) node.times = undefined;
      node.hasUnsettledCtime = false;
    }
  }

  isAlive(node: Tracked): boolean {
    return this.state.has(node.id);
  }

  /** Whether a program on the mount of now can name the inode: by a path, or because it has it open. */
  isReachable(node: Tracked): boolean {
    if (!this.isAlive(node)) return false;
    return node === this.home || this.nameOf(node) !== undefined || this.isOpenHere(node);
  }

  /** An entry that leads to `node`. */
  nameOf(node: Tracked): { readonly parent: Tracked; readonly name: Buffer } | undefined {
    for (const parent of this.nodes.values()) {
      if (parent.kind !== 'directory' || !this.isAlive(parent)) continue;
      for (const [key, entry] of this.state.directory(parent.id).entries) {
        if (entry.inode.id === node.id) return { parent, name: keyName(key) };
      }
    }
    return undefined;
  }

  handlesOf(node: Tracked): Handle[] {
    return [...this.handles].filter((handle) => handle.node === node);
  }

  /** Drops what the mounts know of inodes that are gone, as a kernel does. */
  private async forgetTheGone(): Promise<void> {
    for (const [id, node] of this.nodes) {
      if (this.isAlive(node)) continue;
      this.nodes.delete(id);
      for (const [mount, known] of node.ids.entries()) {
        if (known !== undefined) await this.options.forget?.(mount, known);
      }
    }
  }

  private isOpenHere(node: Tracked): boolean {
    return this.handlesOf(node).some((handle) => handle.mount === this.mount);
  }

  /** Looks `node` up on the mount of now, from the nearest directory that is known there. */
  async reach(node: Tracked): Promise<void> {
    await this.reachAbove(node);
    const wasMoved = node.movedFor.delete(this.mount);
    if (node.ids[this.mount] !== undefined && !wasMoved) return;
    const place = this.nameOf(node) ?? assert.fail(`inode ${node.id} has no name`);
    await this.reach(place.parent);
    const real = await this.real(`lookup ${JSON.stringify(place.name.toString('latin1'))}`, place.parent, (fs, id) =>
      fs.lookup(ROOT_CREDENTIALS, id, place.name),
    );
    this.remember(node, real.inode);
    this.compareAttributes('lookup', node, { real, model: this.state.inode(node.id).attributes() });
  }

  /** A path leads through the directories above: the kernel compares them as it remembers them when one is moved. */
  private async reachAbove(node: Tracked): Promise<void> {
    if (node.kind !== 'directory' || node === this.home || !this.isAlive(node)) return;
    const parent = this.nodes.get(this.state.inode(node.id).parent.id);
    if (parent !== undefined) await this.reach(parent);
  }

  /** Asks the mount for what the model cannot refuse. */
  private async real<T>(what: string, node: Tracked, ask: (fs: FileSystem, id: InodeId) => Promise<T>): Promise<T> {
    const side = this.side('real');
    try {
      return await ask(side.fs, side.id(node));
    } catch (error) {
      return this.fail(`${this.options.name} #${this.operations} on ${'AB'[this.mount] ?? ''}: ${what}`, [node], error);
    }
  }

  private remember(node: Tracked, id: InodeId): void {
    const known = node.ids[this.mount];
    this.check('its number', [node], () => {
      assert.ok(known === undefined || known === id, `inode ${id}, it was ${known}`);
    });
    node.ids[this.mount] = id;
  }

  private track(id: InodeId, kind: FileKind): Tracked {
    const node = new Tracked(id, kind, this.options.mounts.length);
    this.nodes.set(id, node);
    return node;
  }

  private side(name: 'real' | 'model'): Side {
    const { mount } = this;
    if (name === 'model') return { name, fs: this.model, id: (node) => node.id, file: (handle) => handle.model };
    return {
      name,
      fs: this.options.mounts[mount] ?? assert.fail('no such mount'),
      id: (node) => node.ids[mount] ?? assert.fail(`inode ${node.id} is not known on this mount`),
      file: (handle) => handle.real,
    };
  }
}

async function outcome<T>(
  promise: Promise<T>,
): Promise<{ code?: ErrorCode; message: string } | { code?: undefined; message: string; value: T }> {
  try {
    return { value: await promise, message: '' };
  } catch (error) {
    const { code, message } = asCairnError(error);
    return { code: SAME[code] ?? code, message };
  }
}
