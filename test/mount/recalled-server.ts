/**
 * A mount whose files another mount changes, as the process that started it says: recalled-server.js MOUNTPOINT SEED OPTIONS. Messages
 * are `Order`s; each is answered with its number and what is there then.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { SystemClock } from '../../src/core/clock.js';
import { asCairnError } from '../../src/core/errors.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import type { InodeId } from '../../src/core/ids.js';
import { createLogger } from '../../src/core/logging/logger.js';
import { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import type { Recalled } from '../../src/filesystem/filesystem.js';
import { KernelDriver } from '../../src/fuse/kernel/driver.js';
import { BelievedFileSystem } from '../support/models/believed-filesystem.js';
import type { PlannedChange } from '../support/models/believed-filesystem.js';
import type { ModelFileSystem } from '../support/models/model-filesystem.js';
import type { ModelInode } from '../support/models/model-state.js';

export interface Order {
  readonly id: number;
  readonly what:
    | 'create'
    | 'replace'
    | 'unlink'
    | 'mkdir'
    | 'rmdir'
    | 'rename'
    | 'write'
    | 'truncate'
    | 'chmod'
    | 'whole'
    | 'look'
    | 'counts'
    | 'tune'
    | 'unmount';
  readonly path: string;
  /** Of a rename. */
  readonly to?: string;
  /** Content of a file that is made or written. */
  readonly text?: string;
  readonly value?: number;
}

export interface Tuning {
  /** Longest usual answer, and how many of a hundred take `longMs`. */
  readonly usualMs: number;
  readonly longPercent: number;
  readonly longMs: number;
  /** Operations that always take so long. */
  readonly held?: Readonly<Record<string, number>>;
  readonly changeMs: number;
}

/** What is at a path; undefined when nothing is. */
export interface There {
  readonly inode: number;
  readonly mode: number;
  readonly size: number;
  readonly text: string;
  readonly names: readonly string[];
}

export interface Outcome {
  readonly id: number;
  readonly error?: string;
  readonly there?: There | undefined;
  readonly counts?: Readonly<Record<string, number>>;
}

const [mountpoint, seed, ...flags] = process.argv.slice(2);
if (mountpoint === undefined) throw new Error('where?');
const random = new SeededRandom(Number(seed));
const model = new BelievedFileSystem();
let tuning: Tuning = { usualMs: 0, longPercent: 0, longMs: 0, changeMs: 0 };
model.delay = (operation) => {
  const held = tuning.held?.[operation];
  if (held !== undefined) return pause(held);
  if (random.below(100) < tuning.longPercent) return pause(random.below(tuning.longMs));
  const ms = random.below(tuning.usualMs + 1);
  return ms === 0 ? undefined : pause(ms);
};
model.changeDelay = () => (tuning.changeMs === 0 ? undefined : pause(random.below(tuning.changeMs)));

function find(path: string): ModelInode | undefined {
  let at: ModelInode | undefined = model.state.root;
  for (const name of path.split('/').filter((each) => each !== '')) at = at?.entries.get(name)?.inode;
  return at;
}

function placeOf(path: string): { directory: ModelInode; name: Buffer; key: string; child: ModelInode | undefined } {
  const [parent, name] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)];
  const directory = find(parent);
  if (directory?.kind !== 'directory') throw new Error('ENOENT');
  return { directory, name: Buffer.from(name), key: name, child: directory.entries.get(name)?.inode };
}

const item = (
  inode: InodeId,
  names: readonly Buffer[],
  attributes: readonly (ModelInode | undefined)[],
  contents: readonly ModelInode[] = [],
  whole = false,
): Recalled => ({
  inode,
  whole,
  names,
  attributes: attributes.filter((each) => each !== undefined).map(({ id }) => id),
  contents: contents.map(({ id }) => id),
});

let hidden: InodeId | undefined;

/** In one tick, but for what nobody can see: the model does each call at once. */
function fileElsewhere(other: ModelFileSystem, directory: InodeId, name: Buffer, text: string): Promise<unknown> {
  const flags = { read: true, write: true };
  const made = other.create(root, directory, name, { mode: 0o644, flags, exclusive: true });
  const inode = model.state.inode(directory).entries.get(name.toString('latin1'))?.inode;
  inode?.content.write(0, Buffer.from(text));
  return made.then(({ file }) => file.close());
}

function planOf(order: Order): PlannedChange {
  const { what, path, text = '' } = order;
  const { directory, name, child } = placeOf(path);
  const names = item(directory.id, [name], [directory, child]);
  const self = child === undefined ? [] : [item(child.id, [], [child])];
  switch (what) {
    case 'create':
      if (child !== undefined) throw new Error('EEXIST');
      return { recalled: [names], change: (other) => fileElsewhere(other, directory.id, name, text) };
    case 'replace': {
      if (child?.kind === 'directory') throw new Error('EISDIR');
      const parent = (hidden ??= model.state.make('directory', { permissions: 0o700, uid: 0, gid: 0 }).id);
      const beside = Buffer.from(`t${order.id}`);
      return {
        recalled: [names],
        change: (other) => {
          const made = fileElsewhere(other, parent, beside, text);
          const renamed = other.rename(root, { parent, name: beside }, { parent: directory.id, name });
          return Promise.all([made, renamed]);
        },
      };
    }
    case 'unlink':
      return { recalled: [names], change: (other) => other.unlink(root, directory.id, name) };
    case 'mkdir': {
      if (child !== undefined) throw new Error('EEXIST');
      const node = { kind: 'directory', mode: 0o755 } as const;
      return { recalled: [names], change: (other) => other.makeNode(root, directory.id, name, node) };
    }
    case 'rmdir':
      if (child?.kind !== 'directory' || child.entries.size > 0) throw new Error('ENOTEMPTY');
      return {
        recalled: [names, ...self],
        change: (other) => other.removeDirectory(root, directory.id, name),
      };
    case 'rename': {
      const to = placeOf(order.to ?? path);
      if (child === undefined) throw new Error('ENOENT');
      const target = item(to.directory.id, [to.name], [to.directory, to.child]);
      const from = { parent: directory.id, name };
      return {
        recalled: [names, ...self, target],
        change: (other) => other.rename(root, from, { parent: to.directory.id, name: to.name }),
      };
    }
    case 'write':
    case 'truncate': {
      if (child?.kind !== 'file') throw new Error('EISDIR');
      return {
        recalled: [item(directory.id, [], [child], [child])],
        change: async (other) => {
          if (what === 'truncate') return other.setAttributes(root, child.id, { size: order.value ?? 0 });
          child.content.truncate(0);
          child.content.write(0, Buffer.from(text));
          model.state.touchContent(child);
          return undefined;
        },
      };
    }
    case 'chmod': {
      if (child === undefined) throw new Error('ENOENT');
      const family = child.kind === 'directory' ? child.id : directory.id;
      return {
        recalled: [item(family, [], [child])],
        change: (other) => other.setAttributes(root, child.id, { mode: order.value ?? 0o644 }),
      };
    }
    case 'whole': {
      // All files of a directory at once.
      if (child?.kind !== 'directory') throw new Error('ENOTDIR');
      return {
        recalled: [item(child.id, [], [], [], true)],
        change: (other) =>
          Promise.all(
            [...child.entries].map(async ([key, { inode }]) => {
              if (inode.kind !== 'file') return undefined;
              const removed = other.unlink(root, child.id, Buffer.from(key));
              return Promise.all([removed, fileElsewhere(other, child.id, Buffer.from(key), text)]);
            }),
          ),
      };
    }
    default:
      throw new Error(`not a change: ${what}`);
  }
}

function thereAt(path: string): There | undefined {
  const found = find(path);
  if (found === undefined) return undefined;
  const { mode, size } = found.attributes();
  const text = found.kind === 'file' ? found.content.read(0, size).toString() : '';
  return { inode: found.id, mode, size, text, names: [...found.entries.keys()].sort() };
}

const driver = new KernelDriver({
  source: 'recalled',
  mountpoint,
  fileSystem: model,
  root: ROOT_INODE,
  credentials: root,
  allowOther: true,
  kernelChecks: !flags.includes('unchecked'),
  flags: flags.includes('ro') ? ['ro'] : [],
  attributeTimeoutMs: undefined,
  entryTimeoutMs: 1_000,
  clock: new SystemClock(),
  logger: createLogger({ role: 'mount', level: 'warn', file: undefined }),
});
const mounted = await driver.mount();

async function obey(order: Order): Promise<Outcome> {
  const { id, what, path } = order;
  if (what === 'tune') tuning = JSON.parse(order.text ?? '{}') as Tuning;
  else if (what === 'counts') return { id, counts: Object.fromEntries(model.counts) };
  else if (what === 'unmount') await mounted.unmount('lazy');
  else if (what !== 'look') await model.changeElsewhere(() => planOf(order));
  return { id, there: thereAt(order.to ?? path) };
}

process.on('message', (order: Order) => {
  void obey(order)
    .catch((error: unknown) => {
      const { code, message } = asCairnError(error);
      return { id: order.id, error: code === 'INTERNAL' ? message : code, there: thereAt(order.to ?? order.path) };
    })
    .then((outcome: Outcome) => process.send?.(outcome));
});
process.send?.({ id: 0 } satisfies Outcome);
void mounted.closed.then(() => process.exit(0));
