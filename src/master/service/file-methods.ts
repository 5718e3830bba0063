/** The methods about files: opening and closing, attributes, sizes, holes, syncing. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { SessionId } from '../../core/ids.js';
import { isRegular } from '../../core/mode.js';
import { OpenFlagsBit } from '../../protocol/generated/messages.js';
import type {
  AttributesInit,
  ChunkLocationInit,
  GetAttributesRequest,
  OpenReplyInit,
  OpenRequest,
  OperationId,
} from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handler, Handlers } from '../../protocol/rpc.js';
import { getChunks } from '../chunks/locations.js';
import * as namespace from '../namespace/namespace.js';
import type { OpenCounts } from '../sessions/opens.js';
import type { Session } from '../sessions/sessions.js';
import type { Mutation } from '../state/state.js';
import { markSynced } from '../tables/chunk-records.js';
import { behindAppends } from './append-methods.js';
import type { Coverage } from './coverage.js';
import type { ServiceDeps } from './deps.js';
import type { MethodKinds } from './once.js';
import { fileSystemStats } from './status.js';

type FileMethodName =
  | 'getAttributes'
  | 'access'
  | 'getXattr'
  | 'listXattrs'
  | 'statFs'
  | 'create'
  | 'setXattr'
  | 'removeXattr'
  | 'setAttributes'
  | 'publish'
  | 'punchChunks'
  | 'open'
  | 'close'
  | 'sync';

export function fileHandlers(
  deps: ServiceDeps,
  { reads, noteRead, once, onceWitnessed }: MethodKinds,
  coverage: Coverage,
): Pick<Handlers<MasterMethods>, FileMethodName> {
  const { state, sessions, cuts, masterTime } = deps;
  const m = MASTER_METHODS;

  function openCounts(flags: number): OpenCounts {
    const writes = (flags & OpenFlagsBit.WRITE) !== 0;
    const reads = (flags & OpenFlagsBit.READ) !== 0;
    return { readers: reads || !writes ? 1 : 0, writers: writes ? 1 : 0 };
  }

  /** Opens are in memory only: a replay counts them if this process has not. */
  function countOpen(
    session: Session,
    operation: OperationId | null,
    attributes: AttributesInit | null | undefined,
    flags: number,
  ): number {
    const inode = inodeId(attributes?.inode ?? 0);
    if (flags !== 0 && session.replies.countOnce(operation?.sequence ?? 0)) {
      sessions.addOpen(session, inode, openCounts(flags));
    }
    return inode;
  }

  /** An inode without a name that nobody has open is gone already; the reaper only has not come by. */
  function refuseUnused<A extends AttributesInit>(attributes: A): A {
    if (attributes.nlink === 0 && !sessions.isOpen(inodeId(attributes.inode ?? 0))) {
      throw new CairnError('ESTALE', `inode ${attributes.inode ?? 0} does not exist any more`);
    }
    return attributes;
  }

  /** Where a file begins, so that who is about to read it need not ask. */
  const firstChunk = ({ inode, mode, size }: AttributesInit): ChunkLocationInit | undefined =>
    isRegular(mode ?? 0) && (size ?? 0) > 0
      ? getChunks(deps, { inode: inode ?? 0, firstIndex: 0, count: 1, mappedOnly: false }).chunks?.[0]
      : undefined;

  const decideOpen = (
    mutation: Mutation,
    context: namespace.OperationContext,
    request: OpenRequest,
  ): OpenReplyInit => ({
    attributes: refuseUnused(namespace.openTruncating(mutation, context, request)),
  });
  const openTruncating = once(m.open, decideOpen, {
    after: (done, request) => {
      const inode = countOpen(done.session, request.operation, done.reply.attributes, request.flags);
      return cuts.afterTruncate(inodeId(inode));
    },
    completed: (reply) => ({ ...reply, masterTime: masterTime() }),
    cover: (session, reply, { inode, parent, hold }, late) =>
      coverage.opened(session, reply, inode === 0 ? parent : 0, { hold, late }),
  });
  const inTurn = behindAppends(deps);
  const openTruncatingInTurn = inTurn<MasterMethods['open']>(
    'cut',
    (request) => {
      return request.inode !== 0 ? request.inode : namespace.inodeNamed(state, request.parent, request.name);
    },
    openTruncating,
  );
  const open: Handler<MasterMethods['open']> = (request, context) => {
    if ((request.flags & OpenFlagsBit.TRUNCATE) !== 0) return openTruncatingInTurn(request, context);
    const session = sessions.require(context.peer);
    const attributes = refuseUnused(namespace.open(state, request));
    const inode = inodeId(attributes.inode ?? 0);
    sessions.addOpen(session, inode, openCounts(request.flags));
    const chunk = request.withChunk ? firstChunk(attributes) : undefined;
    const wantsToAppend = (request.flags & OpenFlagsBit.APPEND) !== 0;
    const appendGranted = wantsToAppend && deps.appends.take(session.id, inode);
    const reply: OpenReplyInit = { attributes, appendGranted, chunk, masterTime: masterTime() };
    coverage.opened(session.id, reply, request.inode === 0 ? request.parent : 0, { hold: request.hold });
    return { reply };
  };

  const cover = (session: SessionId, reply: AttributesInit, _request: unknown, late: boolean): void =>
    coverage.attributes(session, reply, { late });

  return {
    getAttributes: reads(
      (reader, request: GetAttributesRequest) => refuseUnused(namespace.getAttributes(reader, request)),
      (session, reply, { hold }) => coverage.attributes(session, reply, { hold }),
    ),
    access: reads(namespace.access),
    getXattr: reads(namespace.getXattr),
    listXattrs: reads(namespace.listXattrs),
    statFs: reads(() => fileSystemStats(deps)),
    create: onceWitnessed(
      inTurn<MasterMethods['create']>(
        'cut',
        ({ openFlags, parent, name, temporary }) =>
          (openFlags & OpenFlagsBit.TRUNCATE) === 0 || temporary ? 0 : namespace.inodeNamed(state, parent, name),
        once(m.create, namespace.create, {
          after: (done, request) => {
            const inode = countOpen(done.session, request.operation, done.reply.attributes, request.openFlags);
            if ((request.openFlags & OpenFlagsBit.TRUNCATE) === 0) return undefined;
            return cuts.afterTruncate(inodeId(inode));
          },
          completed: ({ attributes, created }, { parent }) => ({
            attributes,
            created,
            parent: created === true && parent !== 0 ? namespace.getAttributes(state, { inode: parent }) : undefined,
            masterTime: masterTime(),
          }),
          cover: (session, reply, { parent, temporary, hold }, late) =>
            coverage.created(session, reply, temporary ? 0 : parent, { hold, late }),
        }),
      ),
    ),
    setXattr: once(m.setXattr, namespace.setXattr),
    removeXattr: once(m.removeXattr, namespace.removeXattr),
    setAttributes: inTurn<MasterMethods['setAttributes']>(
      'cut',
      ({ size, inode }) => (size === null ? 0 : inode),
      once(m.setAttributes, namespace.setAttributes, {
        after: (_done, request) => (request.size === null ? undefined : cuts.afterTruncate(inodeId(request.inode))),
        cover,
      }),
    ),
    publish: inTurn<MasterMethods['publish']>(
      'growth',
      ({ inode, end }) => (end > namespace.sizeOf(state, inodeId(inode)) ? inode : 0),
      once(m.publish, namespace.publish, {
        after: (_done, request) => (request.durable ? state.durable() : undefined),
        cover,
      }),
    ),

    punchChunks: once(m.punchChunks, namespace.punchChunks, {
      after: (_done, request) => cuts.afterTruncate(inodeId(request.inode)),
      cover,
    }),

    open,
    close: ({ inode, readers, writers, atime, untold }, { peer }) => {
      if (atime !== null) noteRead(inodeId(inode), atime);
      sessions.closeOpen(sessions.require(peer), inodeId(inode), { readers, writers }, untold);
      return { reply: {} };
    },
    sync: async ({ syncedChunks }, { peer }) => {
      sessions.require(peer);
      if (syncedChunks.length > 0) {
        await state.ready();
        state.mutate((mutation) => markSynced(mutation, syncedChunks));
      }
      await state.durable();
      return { reply: {} };
    },
  };
}
