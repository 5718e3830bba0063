/**
 * A client's parts, put together: the connection to the master, and what stands on it. What needs a part that is made later
 * gets a function.
 */
import type { Clock } from '../core/clock.js';
import { CHUNKSERVER_CONNECT_MS, REQUEST_TIMEOUT_MS } from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import { unawaited } from '../core/sync.js';
import type { Beliefs } from '../filesystem/filesystem.js';
import { connectPeer, type EndpointOptions } from '../protocol/endpoint.js';
import { CLIENT_METHODS } from '../protocol/methods.js';
import type { Network } from '../protocol/transport.js';
import { ChunkAccess } from './chunks/chunk-access.js';
import { ChunkServers } from './chunks/chunk-servers.js';
import { FileSyncs } from './files/file-syncs.js';
import { FileTable, type FileTunables } from './files/file-table.js';
import { InodeChanges } from './files/inode-changes.js';
import { AttributeCache } from './inodes/attribute-cache.js';
import { KnownInodes } from './inodes/known-inodes.js';
import { Listings } from './inodes/listings.js';
import { Recalls } from './inodes/recalls.js';
import { WholeDirectories } from './inodes/whole-directories.js';
import { HeldAppendLeases } from './session/held-append-leases.js';
import { FileLocks } from './session/file-locks.js';
import { DEFAULT_LEASES, Holdings, Moments, type Leases } from './session/holdings.js';
import { MasterConnection } from './session/master-connection.js';

export interface ClusterFileSystemDependencies {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly logger: Logger;
}

export interface ClusterFileSystemConfig extends FileTunables {
  /** host:port. */
  readonly master: string;
  /** 32 bytes. */
  readonly secret: Buffer;
  /** Host and process, for the operator. */
  readonly clientName: string;
  /** Time to wait for the master at first. Default REQUEST_TIMEOUT_MS. */
  readonly connectTimeoutMs?: number;
  /** Time that attributes and names are believed; 0 asks always. Default CLIENT_CACHE_TTL_MS. Without leases only. */
  readonly cacheTtlMs?: number;
  /** 'shared': what is known is believed until the master recalls it, and never when others have changed it. Default DEFAULT_LEASES. */
  readonly leases?: Leases;
}

export interface ClientParts {
  readonly master: MasterConnection;
  readonly servers: ChunkServers;
  readonly cache: AttributeCache;
  readonly holdings: Holdings;
  readonly listings: Listings;
  readonly whole: WholeDirectories;
  readonly beliefs: Beliefs | undefined;
  readonly inodes: KnownInodes;
  readonly changes: InodeChanges;
  readonly files: FileTable;
}

/** Opens a session. UNAUTHENTICATED when the secret is another; UNAVAILABLE when no master answers in time. */
export async function connectClient(
  deps: ClusterFileSystemDependencies,
  config: ClusterFileSystemConfig,
): Promise<ClientParts> {
  const { clock, random, network, logger } = deps;
  const endpoint: EndpointOptions = { network, clock, random, logger, secret: config.secret, role: 'client' };
  let clusterId: string | undefined;
  const connect = async (): Promise<Awaited<ReturnType<typeof connectPeer>>> => {
    const options = clusterId === undefined ? endpoint : { ...endpoint, clusterId };
    const service = { table: CLIENT_METHODS, handlers: recalls.handlers };
    const peer = await connectPeer(options, config.master, { role: 'master', service });
    clusterId = peer.clusterId;
    return peer;
  };
  const moments = new Moments();
  const isShared = (config.leases ?? DEFAULT_LEASES) === 'shared';
  const holdings = new Holdings(clock, moments, isShared);
  // Who asks for holdings believes nothing else: what others changed is seen at once.
  const ttlMs = isShared ? 0 : config.cacheTtlMs;
  const cache = new AttributeCache({ clock, moments, holdings, ...(ttlMs !== undefined && { ttlMs }) });
  const listings = new Listings(holdings, moments);
  const whole = new WholeDirectories(holdings);
  const recalls = new Recalls({ holdings, cache, listings, whole, logger, inodes: () => table.current?.inodes });
  // The table comes after the connection that it uses; until then nothing is open.
  const table: { current?: FileTable } = {};
  const timeout = config.operationTimeoutMs;
  const master = await MasterConnection.connect(
    {
      connect,
      clock,
      random,
      logger,
      clientName: config.clientName,
      opens: () => table.current?.inodes.openStates() ?? [],
      locks: () => table.current?.locks.states() ?? [],
      onOperationsLost: (kept) => table.current?.operationsLost(kept),
      holdings,
      onHoldingsEnded: (inodes) => (inodes === undefined ? recalls.allEnded() : recalls.ended(inodes)),
      appends: () => table.current?.appends.inodes() ?? [],
      onReclaimed: (lost) => table.current?.appends.reclaimed(lost),
      lockLosses: () => table.current?.inodes.lockLosses ?? 0,
      onSessionLost: () => table.current?.sessionLost(),
      // The master recalls nothing here of what this client itself asked for.
      onDoubt: () => unawaited(Promise.resolve(recalls.allEnded()), logger, 'forgetting what is in doubt'),
      // Whoever is told ESTALE looks the name up once more: the second answer must not be the same from memory.
      onStale: () => {
        if (!isShared) cache.dropAll();
      },
      ...(timeout !== undefined && { operationTimeoutMs: timeout }),
    },
    config.connectTimeoutMs ?? REQUEST_TIMEOUT_MS,
  );
  const servers = new ChunkServers({
    clock,
    connect: (address) =>
      connectPeer({ ...endpoint, clusterId: master.clusterId }, address, {
        role: 'chunkserver',
        timeoutMs: CHUNKSERVER_CONNECT_MS,
      }),
  });
  const chunks = new ChunkAccess({
    clock,
    random,
    logger,
    master,
    servers,
    requireWritable: (inode) => inodes.requireWritable(inode),
    layoutVersion: (inode) => inodes.get(inode)?.attributes.layoutVersion ?? 0,
    ...(timeout !== undefined && { timeoutMs: timeout }),
  });
  const inodes: KnownInodes = new KnownInodes({
    clock,
    master,
    cache,
    holdings,
    onNewer: (attributes) => chunks.validate(attributes),
    onChanged: (inode) => {
      syncs.changed.note(inode, master.changes);
    },
    onKeptRead: (inode, atime) => master.giveBack({ inode, readers: 0, writers: 0, atime }),
    onCut: (attributes, asked) => {
      chunks.cut(attributes);
      syncs.cut(attributes, asked);
    },
  });
  const syncs = new FileSyncs({ master, inodes, io: chunks.writer });
  const changes = new InodeChanges({ clock, master, inodes, leases: chunks.leases });
  const locks = new FileLocks({
    master,
    clock,
    random,
    logger,
    requireUsable: (inode) => inodes.requireWritable(inode),
    publish: (inode) => inodes.publish(inode),
    moment: () => moments.now(),
    refresh: async (inode, told) => {
      if (told !== undefined) inodes.changed(told.attributes, told.asked);
      else {
        cache.dropAttributes(inode);
        await inodes.freshAttributes(inode);
      }
    },
  });
  const appends = new HeldAppendLeases({
    master,
    clock,
    random,
    logger,
    publish: (inode) => inodes.publish(inode),
    learn: (attributes) => {
      // Under no grant, so that it does not matter when it was asked for.
      inodes.changed(attributes, moments.now());
    },
    discard: (inode) => inodes.get(inode)?.writer?.discardUnpublished(),
  });
  const files = new FileTable({
    clock,
    logger,
    master,
    cache,
    chunks,
    inodes,
    changes,
    syncs,
    locks,
    appends,
    tunables: config,
  });
  table.current = files;
  return {
    master,
    servers,
    cache,
    holdings,
    listings,
    whole,
    beliefs: isShared ? recalls : undefined,
    inodes,
    changes,
    files,
  };
}
