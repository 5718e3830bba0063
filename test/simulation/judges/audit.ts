/**
 * Whether the tables of a master's state agree with each other: names and the order of listings, links and entries that are
 * counted, chunk maps and chunk records, what servers hold. For a state at any moment, as every mutation is whole.
 */
import { chunkHandle, inodeId } from '../../../src/core/ids.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { S_IFMT, isDirectory } from '../../../src/core/mode.js';
import { readCounter } from '../../../src/master/state/counters.js';
import { keys, keyToName, PREFIX_LENGTH, unpacked, unpackNumber } from '../../../src/master/state/keys.js';
import type { StateReader } from '../../../src/master/state/state.js';
import { ChunkRecord, CookieRecord, DentryRecord, InodeRecord } from '../../../src/protocol/generated/messages.js';

/** Returns what does not agree, in words. */
export function auditState(state: StateReader): string[] {
  const wrong: string[] = [];
  const demand = (holds: boolean, what: string): void => {
    if (!holds) wrong.push(what);
  };
  const table = (letter: string): (readonly [string, Uint8Array])[] => [
    ...state.range({ start: letter, end: String.fromCharCode(letter.charCodeAt(0) + 1) }),
  ];

  const inodes = new Map<number, InodeRecord>();
  for (const [key, value] of table('I')) inodes.set(unpackNumber(key, 1), InodeRecord.decode(value));
  const names = new Map<number, number>();
  const entries = new Map<number, number>();
  const subdirectories = new Map<number, number>();
  const more = (counts: Map<number, number>, of: number, by = 1): void =>
    void counts.set(of, (counts.get(of) ?? 0) + by);

  for (const [key, value] of table('D')) {
    const parent = unpackNumber(key, 1);
    const name = keyToName(key, PREFIX_LENGTH);
    const { inode, mode, cookie } = DentryRecord.decode(value);
    const [record, directory] = [inodes.get(inode), inodes.get(parent)];
    const at = `name ${name.toString('latin1')} in ${parent}`;
    demand(directory !== undefined && isDirectory(directory.mode), `${at}: no such directory`);
    demand(
      record !== undefined && (record.mode & S_IFMT) === mode,
      `${at}: leads to ${inode}, of another kind or none`,
    );
    demand(cookie > 0 && cookie < (directory?.nextCookie ?? 0), `${at}: cookie ${cookie} was never given`);
    const listed = state.get(keys.cookie(inodeId(parent), cookie));
    const listing = listed === undefined ? undefined : CookieRecord.decode(listed);
    demand(
      listing?.inode === inode && listing.mode === mode && name.equals(listing.name),
      `${at}: is not in the listing at ${cookie}`,
    );
    more(names, inode);
    more(entries, parent);
    if (record !== undefined && isDirectory(record.mode)) {
      more(subdirectories, parent);
      demand(record.parent === parent, `${at}: directory ${inode} says that it is in ${record.parent}`);
    }
  }
  demand(table('C').length === table('D').length, 'listings have entries without a name');

  const chunksOf = new Map<number, number>();
  const owned = new Set<number>();
  for (const [key, value] of table('F')) {
    const inode = unpackNumber(key, 1);
    const handle = unpacked(value);
    more(chunksOf, inode);
    demand(!owned.has(handle), `chunk ${handle} is in two places`);
    owned.add(handle);
    const chunk = state.get(keys.chunk(chunkHandle(handle)));
    demand(chunk !== undefined, `inode ${inode} has chunk ${handle}, which is not there`);
    if (chunk !== undefined) demand(ChunkRecord.decode(chunk).inode === inode, `chunk ${handle} is of another inode`);
    demand(state.get(keys.garbage(chunkHandle(handle))) === undefined, `chunk ${handle} of ${inode} is garbage`);
  }
  demand(
    readCounter(state, 'chunk-count', 0) === owned.size,
    `${readCounter(state, 'chunk-count', 0)} chunks are counted`,
  );
  const xattrBytes = new Map<number, number>();
  for (const [key, value] of table('X')) {
    more(xattrBytes, unpackNumber(key, 1), key.length - PREFIX_LENGTH + value.length);
    demand(inodes.has(unpackNumber(key, 1)), `an xattr of inode ${unpackNumber(key, 1)}, which is not there`);
  }
  for (const [inode, record] of inodes) {
    const at = `inode ${inode}`;
    const isOrphan = state.get(keys.orphan(inodeId(inode))) !== undefined;
    const named = names.get(inode) ?? 0;
    if (isDirectory(record.mode)) {
      const links = inode === ROOT_INODE || named === 1 ? 2 + (subdirectories.get(inode) ?? 0) : 0;
      demand(record.nlink === links, `${at}: ${record.nlink} links, and ${links} are there`);
      demand(record.entryCount === (entries.get(inode) ?? 0), `${at}: ${record.entryCount} entries are counted`);
      demand(named === (inode === ROOT_INODE ? 0 : isOrphan ? 0 : 1), `${at}: a directory with ${named} names`);
    } else demand(record.nlink === named, `${at}: ${record.nlink} links, and ${named} names are there`);
    demand(isOrphan === (record.nlink === 0), `${at}: ${record.nlink} links, orphan: ${isOrphan}`);
    demand(record.chunkCount === (chunksOf.get(inode) ?? 0), `${at}: ${record.chunkCount} chunks are counted`);
    demand(
      record.xattrBytes === (xattrBytes.get(inode) ?? 0),
      `${at}: ${record.xattrBytes} bytes of xattrs are counted`,
    );
  }
  for (const inode of chunksOf.keys()) demand(inodes.has(inode), `chunks of inode ${inode}, which is not there`);
  for (const [key] of table('U'))
    demand(inodes.has(unpackNumber(key, 1)), `orphan ${unpackNumber(key, 1)} is not there`);
  demand(
    readCounter(state, 'inode-count', 0) === inodes.size,
    `${readCounter(state, 'inode-count', 0)} inodes are counted`,
  );
  for (const inode of inodes.keys()) demand(inode < readCounter(state, 'next-inode', 2), `inode ${inode} comes again`);

  let replicas = 0;
  for (const [key, value] of table('K')) {
    const handle = unpackNumber(key, 1);
    const { servers, suspects } = ChunkRecord.decode(value);
    replicas += servers.length;
    const isGarbage = state.get(keys.garbage(chunkHandle(handle))) !== undefined;
    demand(owned.has(handle) !== isGarbage, `chunk ${handle}: in a file ${owned.has(handle)}, garbage ${isGarbage}`);
    demand(
      suspects.every((server) => servers.includes(server)),
      `chunk ${handle}: a suspect is no member`,
    );
    for (const server of servers) {
      const held = state.get('R' + keys.server(server as never).slice(1) + keys.chunk(chunkHandle(handle)).slice(1));
      demand(held !== undefined, `chunk ${handle}: server ${server} does not hold it`);
    }
    demand(handle < readCounter(state, 'next-handle', 1), `handle ${handle} comes again`);
  }
  demand(table('R').length === replicas, `${table('R').length} replicas are held, and chunks have ${replicas}`);
  for (const letter of ['W', 'G'] as const) {
    for (const [key] of table(letter)) {
      demand(
        state.get('K' + key.slice(1)) !== undefined,
        `${letter} of chunk ${unpackNumber(key, 1)}, which is not there`,
      );
    }
  }
  for (const [key] of table('P')) {
    demand(
      state.get('N' + key.slice(1, PREFIX_LENGTH)) !== undefined,
      `a reply of session ${unpackNumber(key, 1)}, which is not there`,
    );
  }
  return wrong;
}
