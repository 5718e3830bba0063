/** The methods about names: look-ups and listings, links, renames, removals. */
import type { AttributesInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handlers } from '../../protocol/rpc.js';
import * as namespace from '../namespace/namespace.js';
import type { Coverage } from './coverage.js';
import type { ServiceDeps } from './deps.js';
import type { MethodKinds } from './once.js';

type NameMethodName = 'lookup' | 'readLink' | 'readDirectory' | 'link' | 'unlink' | 'rename';

export function nameHandlers(
  { state, reaper }: ServiceDeps,
  { reads, readsNoted, once, onceWitnessed }: MethodKinds,
  coverage: Coverage,
): Pick<Handlers<MasterMethods>, NameMethodName> {
  const m = MASTER_METHODS;
  const after = (): undefined => {
    reaper.kick();
  };
  /** What a change made of the directory that it was in. */
  const directoryNow = (inode: number): AttributesInit => namespace.getAttributes(state, { inode });

  return {
    lookup: reads(namespace.lookup, (session, entry, { parent, hold }) => coverage.entry(session, entry, parent, hold)),
    readLink: readsNoted(namespace.readLink),
    readDirectory: readsNoted(namespace.readDirectory, (session, reply, { inode, hold }) =>
      coverage.listing(session, reply, inode, hold),
    ),
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
