/** What operations are drawn from: names, callers, places and nodes of the tree. */
import { CHUNK_SIZE_BYTES, KIB, MAX_NAME_BYTES, MIB } from '../../../src/core/limits.js';
import { pick } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { Credentials, FileKind } from '../../../src/filesystem/filesystem.js';
import { keyName } from '../../support/models/model-state.js';
import type { Handle, Tracked } from '../tracked.js';
import type { Work } from '../work.js';

const ALICE: Credentials = { uid: 1001, gid: 1001, groups: [2000] };
const BOB: Credentials = { uid: 1002, gid: 1002, groups: [2000] };
const CAROL: Credentials = { uid: 1003, gid: 1003, groups: [] };
export const IDS = [0, 1001, 1002, 1003, 2000] as const;

/** Few, so that they collide; some are no UTF-8, or as long as names may be. */
const NAMES = [
  ...['a', 'b', 'c', 'd', '.hidden', 'with space', 'line\nbreak', 'x'.repeat(255)].map((text) => Buffer.from(text)),
  Buffer.from([0xff, 0xfe]),
  Buffer.from([0xc3, 0x28, 0x20]),
];
const TOO_LONG = Buffer.alloc(MAX_NAME_BYTES + 1, 'y');

export const isTooLong = (name: Buffer): boolean => name.length > MAX_NAME_BYTES;

/** Of one worker. Each file may be open several times. */
export const MAX_NODES = 120;
export const MAX_DIRECTORIES = 16;
export const MAX_HANDLES = 14;
export const MAX_DATA_BYTES = 200 * KIB;
/** Where bytes are written: at the start of files, and in few of them around the ends of chunks. */
export const WINDOWS = [
  { start: 0, length: 512 * KIB },
  // Around the end of what the client sends, and reads ahead, at a time.
  { start: MIB - 128 * KIB, length: 256 * KIB },
  { start: CHUNK_SIZE_BYTES - 128 * KIB, length: 256 * KIB },
  { start: 2 * CHUNK_SIZE_BYTES - 64 * KIB, length: 128 * KIB },
] as const;
export const LONGEST_FILE_BYTES = 2 * CHUNK_SIZE_BYTES + 64 * KIB;

/** `names` are of the call: which comes first, no permission or a name that is too long, is nobody's promise. */
export function caller(work: Work, ...names: readonly Buffer[]): Credentials {
  if (names.some(isTooLong)) return ROOT_CREDENTIALS;
  const choice = work.random.below(20);
  if (choice < 12) return ROOT_CREDENTIALS;
  return choice < 16 ? ALICE : choice < 18 ? BOB : CAROL;
}

/** The owner of `node` by its model, or root. */
export function ownerOf(work: Work, node: Tracked): Credentials {
  const { uid } = work.state.inode(node.id);
  return [ALICE, BOB, CAROL].find((each) => each.uid === uid) ?? ROOT_CREDENTIALS;
}

export function anyName(work: Work): Buffer {
  return work.random.below(200) === 0 ? TOO_LONG : pick(work.random, NAMES);
}

/** A node that the mount of now can reach. */
export function anyNode(work: Work, wanted: (node: Tracked) => boolean = () => true): Tracked | undefined {
  const fitting = [...work.nodes.values()].filter((node) => wanted(node) && work.isReachable(node));
  return fitting.length === 0 ? undefined : pick(work.random, fitting);
}

export const ofKind =
  (...kinds: readonly FileKind[]) =>
  (node: Tracked): boolean =>
    kinds.includes(node.kind);

export function anyDirectory(work: Work): Tracked {
  return anyNode(work, ofKind('directory')) ?? work.home;
}

/** A name that is most often one of the directory's. */
export function anyEntry(
  work: Work,
  wanted: (kind: FileKind) => boolean = () => true,
): { readonly parent: Tracked; readonly name: Buffer; readonly node: Tracked | undefined } {
  const parent = anyDirectory(work);
  const entries = [...work.state.directory(parent.id).entries].filter(([, entry]) => wanted(entry.inode.kind));
  const name =
    entries.length === 0 || work.random.below(12) === 0 ? anyName(work) : keyName(pick(work.random, entries)[0]);
  return { parent, name, node: nodeAt(work, parent, name) };
}

export function nodeAt(work: Work, parent: Tracked, name: Buffer): Tracked | undefined {
  const entry = work.state.directory(parent.id).entries.get(name.toString('latin1'));
  return entry === undefined ? undefined : work.nodes.get(entry.inode.id);
}

/** A handle of the mount of now. */
export function anyHandle(work: Work, wanted: (handle: Handle) => boolean = () => true): Handle | undefined {
  const fitting = [...work.handles].filter((handle) => handle.mount === work.mount && wanted(handle));
  return fitting.length === 0 ? undefined : pick(work.random, fitting);
}

/** Bytes to write or to read: few most often. */
export function anyLength(work: Work): number {
  const { random } = work;
  const most = pick(random, [100, 100, 4 * KIB, 9000, 9000, 70 * KIB, MAX_DATA_BYTES]);
  return 1 + random.below(most);
}

/** As `anyOffset`, or just before where a handle of the file was read to, and behind it. */
export function nearbyOffset(work: Work, node: Tracked): number {
  const offset = anyOffset(work, node);
  const handles = work.handlesOf(node).filter(({ mount, readTo }) => mount === work.mount && readTo > 0);
  if (handles.length === 0 || work.random.below(2) === 0) return offset;
  const { readTo } = pick(work.random, handles);
  return Math.min(Math.max(0, readTo + work.random.below(40 * KIB) - 8 * KIB), LONGEST_FILE_BYTES);
}

/** Where something happens in `node`: at random, at the ends of pages, blocks, chunks and of the file. */
export function anyOffset(work: Work, node: Tracked): number {
  const { random } = work;
  const far = node.isLong && random.below(3) === 0;
  const window = far ? WINDOWS[2 + random.below(2)] : WINDOWS[random.below(5) === 0 ? 1 : 0];
  const { start, length } = window ?? WINDOWS[0];
  // A write from here must stay within the window, or final comparisons would not look at it.
  const room = length - (start === 0 ? MAX_DATA_BYTES : 0);
  const near = (place: number): number => place + random.below(5) - 2;
  const choice = random.below(8);
  let offset: number;
  if (choice === 0) offset = near(work.state.inode(node.id).size);
  else if (choice === 1) offset = near(start + pick(random, [4, 8, 16, 64, 128]) * KIB);
  else if (choice === 2) offset = start + random.below(4) * 4 * KIB;
  else if (choice === 3) offset = start;
  else offset = start + random.below(random.below(2) === 0 ? room : 20_000);
  return Math.min(Math.max(0, offset), LONGEST_FILE_BYTES);
}
