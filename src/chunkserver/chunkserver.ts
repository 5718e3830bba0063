/**
 * The chunkserver: puts its parts together.
 *
 *   requests.ts ──► reads.ts                           reading replicas
 *       ├─────────► replication/mutations.ts, chain    writes, truncates and syncs, down the chain
 *       │              └─► replication/replicas        leases, the order of mutations
 *       ├─────────► replication/replica-recovery,      making replicas alike,
 *       │              replica-copies                  making new ones
 *       └─────────► store/chunk-store.ts               all replicas; chunk/chunk-file.ts: one of them
 *   master-link.ts ─► replica-reports.ts, fence.ts     registration, reports, heartbeats; whether this server may serve
 */
import type { Clock, Timer } from '../core/clock.js';
import type { BootNotes } from '../core/disk/boot-notes.js';
import type { Disk } from '../core/disk/disk.js';
import { chunkHandle } from '../core/ids.js';
import { HEARTBEAT_INTERVAL_MS, PEER_CONNECT_TIMEOUT_MS } from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import { connectPeer, servePeers, type EndpointOptions, type PeerServer } from '../protocol/endpoint.js';
import { CHUNKSERVER_METHODS } from '../protocol/methods.js';
import type { Interceptor } from '../protocol/rpc.js';
import type { Network } from '../protocol/transport.js';
import { MasterLink } from './master-link.js';
import { Reads } from './reads.js';
import { Chain } from './replication/chain.js';
import { Mutations } from './replication/mutations.js';
import { PeerPool } from './replication/peer-pool.js';
import { RangeCopies } from './replication/range-copy.js';
import { ReplicaRecovery } from './replication/replica-recovery.js';
import { ReplicaCopies } from './replication/replica-copies.js';
import { Replicas } from './replication/replicas.js';
import { Verifier } from './replication/verifier.js';
import { Requests } from './requests.js';
import { ChunkStore } from './store/chunk-store.js';
import { DiskWatch } from './disks/disk-watch.js';

export interface ChunkserverDependencies {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly disk: Disk;
  readonly bootNotes: BootNotes;
  readonly logger: Logger;
  /** Around the handlers of all that is served. */
  readonly interceptor?: Interceptor | undefined;
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

export class Chunkserver {
  private readonly watch: DiskWatch;
  private readonly store: ChunkStore;
  private readonly replicas: Replicas;
  private readonly pool: PeerPool;
  private readonly mutations: Mutations;
  private readonly recovery: ReplicaRecovery;
  private readonly copies: ReplicaCopies;
  private readonly rangeCopies: RangeCopies;
  private readonly verifier: Verifier;
  private readonly link: MasterLink;
  private readonly reads: Reads;
  private readonly requests: Requests;
  private readonly endpoint: EndpointOptions;
  private server: PeerServer | undefined;
  private housekeeping: Timer | undefined;
  private stopping = false;

  constructor(
    private readonly deps: ChunkserverDependencies,
    private readonly config: ChunkserverConfig,
  ) {
    const { clock, random, network, disk, bootNotes, logger } = deps;
    this.endpoint = {
      network,
      clock,
      random,
      logger,
      secret: config.secret,
      role: 'chunkserver' as const,
      interceptor: deps.interceptor,
    };
    const serverId = (): number => this.link.serverId;
    this.watch = new DiskWatch({ disk, clock, logger, paths: config.dataDirectories });
    this.store = new ChunkStore({
      disk: this.watch.disk,
      watch: this.watch,
      bootNotes,
      clock,
      random,
      logger,
      directories: config.dataDirectories,
      address: config.advertise ?? config.listen,
      maxOpen: config.maxOpenChunkFiles,
      forgetDisks: config.forgetDisks ?? [],
      onLost: () => this.link.reportSoon(),
      onBadReplica: ({ handle, version }, error) => this.link.reportReplica(handle, version, error),
    });
    this.replicas = new Replicas(this.store, clock, serverId);
    this.pool = new PeerPool((address) =>
      connectPeer(this.clusterEndpoint(), address, { role: 'chunkserver', timeoutMs: PEER_CONNECT_TIMEOUT_MS }),
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
          service: { table: CHUNKSERVER_METHODS, handlers: this.requests.handlers },
        }),
      activeRequests: () => this.requests.activeCount,
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
    this.recovery = new ReplicaRecovery({
      store: this.store,
      replicas: this.replicas,
      pool: this.pool,
      serverId,
      logger,
    });
    this.copies = new ReplicaCopies(this.store, this.replicas, this.pool);
    this.verifier = new Verifier(clock, this.store, this.replicas);
    this.reads = new Reads(this.store, this.replicas, this.link);
    this.rangeCopies = new RangeCopies({
      clock,
      store: this.store,
      replicas: this.replicas,
      mutations: this.mutations,
      pool: this.pool,
      serverId,
      read: (request) => {
        this.link.fence.refuse(request.knownTime);
        return this.store.answering(chunkHandle(request.handle), () => this.reads.readBlocks(request, true));
      },
    });
    const { store, replicas, mutations, recovery, copies, rangeCopies, verifier, reads, link } = this;
    this.requests = new Requests({
      store,
      replicas,
      mutations,
      recovery,
      copies,
      rangeCopies,
      verifier,
      reads,
      link,
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
        handlers: this.requests.handlers,
        accept: ['client', 'chunkserver'],
        clusterId: () => this.link.clusterId,
      });
      const address = this.config.advertise ?? this.server.address;
      await this.link.start(address);
      this.scheduleHousekeeping();
      logger.info(
        { address, replicas: this.store.index.size, ...this.store.directories.space() },
        'chunkserver serves',
      );
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
    this.requests.stop();
    this.housekeeping?.cancel();
    await this.link.stop();
    await this.replicas.drain();
    await this.server?.close();
    this.pool.close();
    await this.requests.ended();
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
      this.requests
        .counted(work)
        .catch((error: unknown) => this.deps.logger.error({ reason: String(error) }, 'housekeeping failed'))
        .finally(() => {
          if (!this.stopping) this.scheduleHousekeeping();
        });
    });
  }
}
