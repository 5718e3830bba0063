/** What of an answer the session that gets it may go on believing: the number of the holding that covers it (docs/coherence.md). */
import { inodeId } from '../../core/ids.js';
import type { SessionId } from '../../core/ids.js';
import type {
  AttributesInit,
  CreateReplyInit,
  EntryInit,
  OpenReplyInit,
  ReadDirectoryReplyInit,
} from '../../protocol/generated/messages.js';
import type { Holdings } from '../sessions/holdings.js';
import type { State } from '../state/state.js';
import { readInode } from '../tables/inodes.js';

export type Coverage = ReturnType<typeof coverage>;

export function coverage({ state, holdings }: { readonly state: State; readonly holdings: Holdings }) {
  /** `hold`: the session asks for a holding if it has none. `late`: others may have changed something since the answer was made. */
  function attributes(
    session: SessionId,
    about: AttributesInit | null | undefined,
    { hold = false, late = false } = {},
  ): void {
    if (about === null || about === undefined || (!hold && !holdings.holdsAny(session))) return;
    if (late && readInode(state, inodeId(about.inode ?? 0))?.change !== about.change) return;
    about.grant = holdings.cover(session, inodeId(about.heldBy ?? 0), hold);
  }

  /** Of what is known of the names of a directory. */
  function names(session: SessionId, directory: number, hold: boolean): number {
    if (!hold && !holdings.holdsAny(session)) return 0;
    return holdings.cover(session, inodeId(directory), hold);
  }

  return {
    attributes,

    entry(session: SessionId, entry: EntryInit, parent: number, hold: boolean): void {
      entry.nameGrant = names(session, parent, hold);
      attributes(session, entry.attributes, { hold });
    },

    listing(session: SessionId, reply: ReadDirectoryReplyInit, directory: number, hold: boolean): void {
      reply.grant = names(session, directory, hold);
      if (!hold && !holdings.holdsAny(session)) return;
      for (const entry of reply.entries ?? []) attributes(session, entry.attributes, { hold });
    },

    /** An open by name if `parent` is not 0. */
    opened(session: SessionId, reply: OpenReplyInit, parent: number, about: { hold: boolean; late?: boolean }): void {
      if (parent !== 0 && about.late !== true) reply.nameGrant = names(session, parent, about.hold);
      attributes(session, reply.attributes, about);
    },

    created(
      session: SessionId,
      reply: CreateReplyInit,
      parent: number,
      about: { readonly hold: boolean; readonly late: boolean },
    ): void {
      // What was made without a name is in no directory.
      if (parent !== 0 && !about.late) reply.nameGrant = names(session, parent, about.hold);
      attributes(session, reply.attributes, about);
      attributes(session, reply.parent, about);
    },
  };
}
