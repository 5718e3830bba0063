/**
 * The chunkserver: puts the parts together and answers requests.
 *
 *   chunk-store      replicas on the data directories (its parts: there; chunk-file: one replica's file)
 *   replicas         leases, fencing, the order of mutations
 *   primary, chain   writes, truncates and syncs, down the chain
 *   range-copy       copy_file_range(2) from chunk to chunk
 *   block-map        which blocks of a replica are holes
 *   recovery, copy   making replicas alike, making new ones
 *   master-link      registration, reports, heartbeats
 */
import { CairnError, hasCode } from '../core/errors.js';
import type { Clock, Timer } from '../core/clock.js';
import type { Disk } from '../core/disk/disk.js';
import { chunkHandle, type ChunkHandle } from '../core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, HEARTBEAT_INTERVAL_MS, MAX_PAYLOAD_BYTES } from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { MasterTime } from '../core/master-time.js';
import type { Random } from '../core/random.js';
import { connectPeer, servePeers, type EndpointOptions, type PeerServer } from '../protocol/endpoint.js';
import type { ReadChunkReplyInit, ReadChunkRequest } from '../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS, type ChunkserverMethods } from '../protocol/methods.js';
import type { HandlerResult, Handlers } from '../protocol/rpc.js';
import type { Network } from '../protocol/transport.js';
import { Chain, failuresToReply } from './replication/chain.js';
import { mapBlocks } from './chunk/block-map.js';
import type { BlocksRead } from './chunk/chunk-file.js';
import { ChunkStore } from './store/chunk-store.js';
import { CorruptBlockError } from './chunk/stored-blocks.js';
import { Copies } from './replication/replica-copy.js';
import { DiskWatch } from './store/disk-watch.js';
import { MasterLink } from './master-link.js';
import { PeerPool } from './replication/peer-pool.js';
import { Mutations } from './replication/mutations.js';
import { RangeCopies } from './replication/range-copy.js';
import { Recovery } from './replication/recovery.js';
import { Replicas } from './replication/replicas.js';
import { Verifier } from './replication/verifier.js';

export interface ChunkserverDependencies {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly disk: Disk;
  readonly logger: Logger;
}

export interface ChunkserverConfig {
  /** host:port; port 0 for any. */
  readonly listen: string;
  /** host:port that clients and other chunkservers reach this one at; as `listen` when not given. */
  readonly advertise?: string;
  readonly master: string;
  readonly secret: Buffer;
  readonly dataDirectories: readonly string[];
  /** Chunk files that are kept open. Default MAX_OPEN_CHUNK_FILES. */
  readonly maxOpenChunkFiles?: number;
  /** Ids of disks of this server that are gone for good: what they held is lost. */
  readonly forgetDisks?: readonly string[];
}

/** Time to connect to another chunkserver: a dead one must be noticed within the time for a forward. */
const CONNECT_TIMEOUT_MS = 2_000;
const DONE = { reply: {} } as const;

export class Chunkserver {
  private readonly watch: DiskWatch;
  private readonly store: ChunkStore;
  private readonly replicas: Replicas;
  private readonly pool: PeerPool;
  private readonly mutations: Mutations;
  private readonly recovery: Recovery;
  private readonly copies: Copies;
  private readonly rangeCopies: RangeCopies;
  private readonly verifier: Verifier;
  private readonly link: MasterLink;
  private readonly endpoint: EndpointOptions;
  private server: PeerServer | undefined;
  private housekeeping: Timer | undefined;
  private active = 0;
  private stopping = false;
  private idle: (() => void) | undefined;

  constructor(
    private readonly deps: ChunkserverDependencies,
    private readonly config: ChunkserverConfig,
  ) {
    const { clock, random, network, disk, logger } = deps;
    this.endpoint = { network, clock, random, logger, secret: config.secret, role: 'chunkserver' };
    const serverId = (): number => this.link.serverId;
    this.watch = new DiskWatch({ disk, clock, logger, paths: config.dataDirectories });
    this.store = new ChunkStore({
      ...{ disk: this.watch.disk, watch: this.watch },
      clock,
      random,
      logger,
      directories: config.dataDirectories,
      maxOpen: config.maxOpenChunkFiles,
      forgetDisks: config.forgetDisks ?? [],
      onLost: () => this.link.reportSoon(),
      onBadReplica: ({ handle, version }, error) => this.link.reportReplica(handle, version, error),
    });
    this.replicas = new Replicas(this.store, clock, serverId);
    this.pool = new PeerPool((address) =>
      connectPeer(this.clusterEndpoint(), address, { role: 'chunkserver', timeoutMs: CONNECT_TIMEOUT_MS }),
    );
    this.link = new MasterLink({
      clock,
      random,
      logger,
      store: this.store,
      replicas: this.replicas,
      connect: () =>
        connectPeer(this.endpoint, config.master, {
          role: 'master',
          service: { table: CHUNKSERVER_METHODS, handlers: this.handlers },
        }),
      activeRequests: () => this.active,
      onEnded: () => this.copies.cancelAll(),
    });
    this.mutations = new Mutations({
      replicas: this.replicas,
      chain: new Chain(this.pool),
      logger,
      serverId,
      reportFailure: (report) => this.link.reportFailure(report),
      reportDamage: (handle, version, error) => this.link.reportReplica(handle, version, error),
    });
    this.recovery = new Recovery({ store: this.store, replicas: this.replicas, pool: this.pool, serverId, logger });
    this.copies = new Copies(this.store, this.replicas, this.pool);
    this.verifier = new Verifier(clock, this.store, this.replicas);
    this.rangeCopies = new RangeCopies({
      ...{ clock, store: this.store, replicas: this.replicas, mutations: this.mutations, pool: this.pool, serverId },
      read: (request) => {
        this.link.refuseFenced(request.knownTime);
        return this.store.answering(chunkHandle(request.handle), () => this.readBlocks(request, true));
      },
    });
  }

  /**
   * Opens the data directories, listens, and tries to join. An unreachable master is tried on in the background; a
   * wrong secret or a master of another cluster fails.
   */
  async start(): Promise<{ address: string }> {
    const { logger } = this.deps;
    try {
      await this.store.start();
      this.server = await servePeers(this.endpoint, this.config.listen, {
        table: CHUNKSERVER_METHODS,
        handlers: this.handlers,
        accept: ['client', 'chunkserver'],
        clusterId: () => this.link.clusterId,
      });
      const address = this.config.advertise ?? this.server.address;
      await this.link.start(address);
      this.scheduleHousekeeping();
      logger.info({ address, replicas: this.store.index.size, ...this.store.space() }, 'chunkserver serves');
      return { address };
    } catch (error) {
      await this.server?.close();
      this.pool.close();
      await this.store.stop();
      throw error;
    }
  }

  /** Finishes what is under way, marks the replicas clean, and ends all connections. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.housekeeping?.cancel();
    await this.link.stop();
    await this.replicas.drain();
    await this.server?.close();
    this.pool.close();
    if (this.active > 0) await new Promise<void>((resolve) => (this.idle = resolve));
    await this.link.mark.save('now');
    await this.store.stop();
    this.deps.logger.info({}, 'chunkserver stopped');
  }

  private clusterEndpoint(): EndpointOptions {
    const clusterId = this.link.clusterId;
    return clusterId === '' ? this.endpoint : { ...this.endpoint, clusterId };
  }

  private scheduleHousekeeping(): void {
    this.housekeeping = this.deps.clock.setTimer(HEARTBEAT_INTERVAL_MS, () => {
      const work = async (): Promise<void> => {
        this.store.tend();
        // These go through all directories: one that does not answer would keep the rest waiting.
        if (this.watch.allAnswer) {
          await this.watch.run(undefined, async () => {
            await this.store.aside.tidy();
            await this.link.mark.save('if due');
          });
        }
        this.replicas.forgetIdle();
        await this.store.clean((handle, section) => this.replicas.exclusive(handle, section));
      };
      this.counted(work)
        .catch((error: unknown) => this.deps.logger.error({ reason: String(error) }, 'housekeeping failed'))
        .finally(() => {
          if (!this.stopping) this.scheduleHousekeeping();
        });
    });
  }

  private async counted<T>(work: () => Promise<T>): Promise<T> {
    if (this.stopping) throw new CairnError('UNAVAILABLE', 'the chunkserver stops');
    this.active++;
    try {
      return await work();
    } finally {
      this.active--;
      if (this.active === 0) this.idle?.();
    }
  }

  /**
   * A client's request: refused while the master may have given this server up. What other chunkservers ask for needs
   * no such check: leases, versions and the master's order behind it protect it.
   */
  private served<T>(work: () => Promise<T>, known?: MasterTime | null): Promise<T> {
    return this.counted(() => {
      this.link.refuseFenced(known);
      return work();
    });
  }

  /** A request about a replica: not while its disk does not answer. */
  private onReplica<T>(handle: number, work: () => Promise<T>): Promise<T> {
    return this.counted(() => this.store.answering(chunkHandle(handle), work));
  }

  /** As `served`, about a replica. */
  private servedReplica<T>(handle: number, work: () => Promise<T>, known?: MasterTime | null): Promise<T> {
    return this.served(() => this.store.answering(chunkHandle(handle), work), known);
  }

  private async read(request: ReadChunkRequest, isServed: boolean): Promise<HandlerResult<ReadChunkReplyInit>> {
    const { bytes, checksums, end } = await this.readBlocks(request, isServed);
    return { reply: { checksums, length: end }, payload: bytes, payloadIsReusable: true };
  }

  /** For a copy: what is sound, and which blocks are not. */
  private async readSound({
    handle,
    version,
    offset,
    length,
    torn: isTornWanted,
  }: ReadChunkRequest): Promise<HandlerResult<ReadChunkReplyInit>> {
    const known = chunkHandle(handle);
    if (length > MAX_PAYLOAD_BYTES || offset + length > CHUNK_SIZE_BYTES || offset % BLOCK_SIZE_BYTES !== 0) {
      throw new CairnError('EINVAL', `read of ${length} bytes at ${offset} of chunk ${handle}`);
    }
    this.link.refuseUnjoined();
    this.replicas.checkVersion(known, version);
    return this.store.use(known, async (file) => {
      const { bytes, checksums, damaged } = await file.readSound(offset, length);
      const torn = isTornWanted ? undefined : damaged.find((block) => file.isTorn(block));
      if (torn !== undefined) this.refuseTorn(known, version, torn);
      return { reply: { checksums, length: file.length, damagedBlocks: damaged }, payload: bytes };
    });
  }

  private async readBlocks(
    request: Pick<ReadChunkRequest, 'handle' | 'version' | 'offset' | 'length'> & { readonly orOlder?: boolean },
    isServed: boolean,
  ): Promise<BlocksRead & { readonly end: number }> {
    const { version, offset, length } = request;
    const handle = chunkHandle(request.handle);
    if (length > MAX_PAYLOAD_BYTES || offset + length > CHUNK_SIZE_BYTES) {
      throw new CairnError('EINVAL', `read of ${length} bytes at ${offset} of chunk ${handle}`);
    }
    // Recovery may take blocks from a suspect replica: each is verified by its checksum.
    if (isServed) this.replicas.checkServed(handle, version);
    else {
      const found = this.store.entry(handle).version;
      const fits = request.orOlder === true ? found <= version : found === version;
      if (!fits) throw new CairnError('STALE_VERSION', `chunk ${handle} is at version ${found} here, not ${version}`);
    }
    try {
      return await this.store.use(handle, async (file) => ({
        ...(await file.read(offset, length)),
        end: file.length,
      }));
    } catch (error) {
      if (isServed && error instanceof CorruptBlockError && error.isTorn) this.refuseTorn(handle, version, error.block);
      if (hasCode(error, 'CORRUPT')) this.link.reportReplica(handle, version, error);
      throw error;
    }
  }

  /** A block that a killed process was writing: recovery takes it from another replica, or as it stands. Until then nobody reads it. */
  private refuseTorn(handle: ChunkHandle, version: number, block: number): never {
    const reason = `block ${block} of chunk ${handle} was being written when this server was killed`;
    this.link.reportReplica(handle, version, new CairnError('CORRUPT', reason));
    throw new CairnError('UNAVAILABLE', `${reason}: it is being recovered`);
  }

  private readonly handlers: Handlers<ChunkserverMethods> = {
    grantLease: (request) =>
      this.onReplica(request.handle, async () => {
        this.link.refuseUnjoined();
        await this.replicas.grant(request);
        return DONE;
      }),
    revokeLease: (request) =>
      this.onReplica(request.handle, async () => {
        await this.replicas.revoke(chunkHandle(request.handle), request.leaseId);
        return DONE;
      }),
    recoverChunk: (request) =>
      this.onReplica(request.handle, async () => {
        this.link.refuseUnjoined();
        return { reply: await this.recovery.recover(request) };
      }),
    truncateChunk: (request) => this.onReplica(request.handle, () => this.mutations.truncate(request).then(() => DONE)),
    copyChunk: (request, { signal }) => this.counted(async () => ({ reply: await this.copies.pull(request, signal) })),
    leaveOut: ({ handle, leaseId }) => {
      this.replicas.leaveOut(chunkHandle(handle), leaseId);
      return DONE;
    },
    deleteChunks: (request) =>
      this.counted(async () => {
        for (const { handle } of request.chunks) this.copies.cancel(chunkHandle(handle));
        const begun = this.store.making.watch();
        await this.link.remove(request.chunks, begun).finally(() => begun.end());
        return DONE;
      }),
    verifyReplica: (request) => this.counted(async () => ({ reply: await this.verifier.verify(request) })),
    checkReplica: ({ handle, version }) =>
      this.onReplica(handle, async () => {
        if (version !== 0) this.replicas.checkServed(chunkHandle(handle), version);
        await this.store.check(chunkHandle(handle));
        return DONE;
      }),

    readChunk: (request, { peer }) =>
      peer.role === 'client' || request.served
        ? this.servedReplica(request.handle, () => this.read(request, true), request.knownTime)
        : this.onReplica(request.handle, () =>
            request.withDamage ? this.readSound(request) : this.read(request, false),
          ),
    writeChunk: (request, context) =>
      this.servedReplica(request.handle, async () => {
        await this.mutations.write(request, context.payload);
        context.releasePayload();
        return DONE;
      }),
    syncChunk: (request) => this.servedReplica(request.handle, () => this.mutations.sync(request).then(() => DONE)),
    mapChunk: (request) =>
      this.servedReplica(
        request.handle,
        async () => {
          const handle = chunkHandle(request.handle);
          this.replicas.checkServed(handle, request.version);
          return { reply: await this.store.use(handle, mapBlocks) };
        },
        request.knownTime,
      ),
    copyRange: (request, { signal }) =>
      this.served(async () => ({ reply: await this.rangeCopies.copy(request, signal) }), request.knownTime),

    forward: (request, context) =>
      this.onReplica(request.handle, async () => {
        const failures = await this.mutations.forwarded(request, context.payload);
        // After a failure the bytes may still be on their way to the next member.
        if (failures.length === 0) context.releasePayload();
        return { reply: failuresToReply(failures) };
      }),
    inspectReplica: (request) =>
      this.onReplica(request.handle, async () => ({ reply: await this.recovery.inspect(request) })),
    repairBlocks: (request, context) =>
      this.onReplica(request.handle, async () => {
        await this.recovery.repair(request, context.payload);
        return DONE;
      }),
    adoptVersion: (request) =>
      this.onReplica(request.handle, async () => {
        await this.recovery.adopt(request);
        return DONE;
      }),
  };
}
