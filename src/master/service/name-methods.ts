/** The methods about names: look-ups and listings, links, renames, removals. */
import { CairnError } from '../../core/errors.js';
import { MAX_LISTED_AHEAD, MAX_READDIR_ENTRIES } from '../../core/limits.js';
import type {
  AttributesInit,
  ListedDirectoryInit,
  ReadDirectoryReplyInit,
  ReadDirectoryRequest,
} from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handlers } from '../../protocol/rpc.js';
import * as namespace from '../namespace/namespace.js';
import type { Coverage } from './coverage.js';
import type { ServiceDeps } from './deps.js';
import type { MethodKinds } from './once.js';

type NameMethodName = 'lookup' | 'readLink' | 'readDirectory' | 'readDirectories' | 'link' | 'unlink' | 'rename';

export function nameHandlers(
  { state, sessions, reaper }: ServiceDeps,
  { reads, readsNoted, once, onceWitnessed }: MethodKinds,
  coverage: Coverage,
): Pick<Handlers<MasterMethods>, NameMethodName> {
  const m = MASTER_METHODS;
  const after = (): undefined => {
    reaper.kick();
  };
  /** What a change made of the directory that it was in. */
  const directoryNow = (inode: number): AttributesInit => namespace.getAttributes(state, { inode });

  /** Undefined when it is gone by now, or the caller may not read it. */
  const listingOf = (request: ReadDirectoryRequest): ReadDirectoryReplyInit | undefined => {
    try {
      return namespace.readDirectory(state, request);
    } catch (error) {
      if (error instanceof CairnError) return undefined;
      throw error;
    }
  };

  const readDirectory = readsNoted(
    namespace.readDirectory,
    (session, reply: ReadDirectoryReplyInit, { inode, hold }: ReadDirectoryRequest) =>
      coverage.listing(session, reply, inode, hold),
  );

  return {
    lookup: reads(namespace.lookup, (session, entry, { parent, hold }) => coverage.entry(session, entry, parent, hold)),
    readLink: readsNoted(namespace.readLink),
    readDirectory,
    readDirectories: ({ first, ahead }, context) => {
      if (first === null) throw new CairnError('PROTOCOL', 'a listing of several directories names none');
      if (ahead.length > MAX_LISTED_AHEAD) {
        throw new CairnError('PROTOCOL', `${MAX_LISTED_AHEAD} directories are listed ahead at most`);
      }
      const { id } = sessions.require(context.peer);
      const { reply } = readDirectory(first, context);
      const listed: ListedDirectoryInit[] = [];
      let room = MAX_READDIR_ENTRIES - (reply.entries?.length ?? 0);
      for (const inode of ahead) {
        // Nobody has read it yet.
        const request = { ...first, inode, cookie: 0, maxEntries: Math.min(room, first.maxEntries), noAtime: true };
        const other = room === 0 ? undefined : listingOf(request);
        if (other?.end !== true) continue;
        coverage.listing(id, other, inode, first.hold);
        room -= other.entries?.length ?? 0;
        listed.push({ inode, reply: other });
      }
      return { reply: { first: reply, ahead: listed } };
    },
    link: once(m.link, namespace.link, { cover: (session, reply) => coverage.attributes(session, reply) }),
    unlink: once(m.unlink, namespace.unlink, {
      after,
      completed: (_reply, { parent }) => ({ parent: directoryNow(parent) }),
      cover: (session, reply) => coverage.attributes(session, reply.parent),
    }),
    // It may leave a new inode behind (RENAME_WHITEOUT).
    rename: onceWitnessed(
      once(m.rename, namespace.rename, {
        after,
        completed: (_reply, { parent, newParent }) => ({
          parent: directoryNow(parent),
          newParent: newParent === parent ? null : directoryNow(newParent),
        }),
        cover: (session, reply) => {
          coverage.attributes(session, reply.parent);
          coverage.attributes(session, reply.newParent);
        },
      }),
    ),
  };
}
