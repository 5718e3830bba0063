/**
 * The master: puts its parts together over the injected clock, network, disk and store, and gives them their turns.
 *
 *   service ──► namespace ──────────────► state (log, overlay, store)
 *      ├──────► sessions ──► reaper         ▲
 *      └──────► leases ──► recovery ────────┤
 *                 ▲           ▲             │
 *   servers ──► reports     repair ──► collector
 */
import { sleep } from '../core/clock.js';
import { CairnError } from '../core/errors.js';
import { deferred } from '../core/sync.js';
import { servePeers } from '../protocol/endpoint.js';
import type { PeerServer } from '../protocol/endpoint.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import { Background } from './background.js';
import type { MasterConfig, MasterDeps } from './config.js';
import { openIdentity } from './identity.js';
import { compose } from './parts.js';
import type { Parts } from './parts.js';
import { masterHandlers } from './service/methods.js';
import { LogState } from './state/log-state.js';
import { checkState } from './state/state-check.js';

export class Master {
  private parts: Parts | undefined;
  private server: PeerServer | undefined;
  private readonly background: Background;
  private stopping = false;
  private readonly failure = deferred<CairnError>();

  constructor(
    private readonly deps: MasterDeps,
    private readonly config: MasterConfig,
  ) {
    if (config.minReplicas < 1 || config.minReplicas > config.wantedReplicas) {
      throw new CairnError('EINVAL', 'minReplicas must be from 1 to wantedReplicas');
    }
    this.background = new Background(deps.clock, deps.logger);
  }

  /** Resolves when the master cannot go on (its log or store failed); the process should end and be started again. */
  get failed(): Promise<CairnError> {
    return this.failure.promise;
  }

  async start(): Promise<{ address: string; clusterId: string }> {
    const { deps, config } = this;
    const { clock, random, logger } = deps;
    const state = await LogState.open({
      store: deps.store,
      disk: deps.disk,
      bootNotes: deps.bootNotes,
      directory: config.logDirectory,
      clock,
      logger,
      onFailure: (error) => this.failure.resolve(error),
      ...(config.reserveBytes === undefined ? {} : { reserveBytes: config.reserveBytes }),
    });
    if (config.checksState === true) {
      logger.info({ entries: checkState(state) }, 'the metadata was looked through: it is of one moment');
    }
    const clusterId = await openIdentity(state, { clock, random });
    const startedMs = clock.monotonicMs();
    const parts = compose(deps, config, state);
    this.parts = parts;
    await state.durable();
    const identity = {
      clusterId,
      get epoch() {
        return state.epoch;
      },
      get lossEpoch() {
        return state.lossEpoch;
      },
    };
    const handlers = masterHandlers({
      ...parts,
      clock,
      logger,
      identity,
      // The epoch as it is now: one that was put back has passed by then all that anybody heard of (timeline.ts).
      masterTime: () => ({ epoch: state.epoch, ms: Math.floor(clock.monotonicMs() - startedMs) }),
      wantedReplicas: config.wantedReplicas,
      lastSequence: () => state.lastSequence,
      isShortOfSpace: () => state.isShortOfSpace,
    });
    parts.sessions.start();
    this.server = await servePeers(
      {
        network: deps.network,
        clock,
        random,
        logger,
        secret: config.secret,
        role: 'master',
        interceptor: deps.interceptor,
      },
      config.listen,
      { table: MASTER_METHODS, handlers, accept: ['client', 'chunkserver'], clusterId: () => clusterId },
    );
    this.background.start(parts, config.backgroundIntervalMs ?? 250);
    logger.info({ address: this.server.address, clusterId, epoch: state.epoch }, 'master serves');
    return { address: this.server.address, clusterId };
  }

  /** For tests of a crash: the listener is freed as by the end of the process, nothing else happens. */
  async abandon(): Promise<void> {
    this.stopping = true;
    this.background.stop();
    this.parts?.recoveries.stop();
    this.parts?.repair.stop();
    this.parts?.timeline.stop();
    await this.server?.close();
  }

  /** Ends every connection, writes all to the store. Chunkservers and clients go on with the next master. */
  async stop(): Promise<void> {
    if (this.stopping) return;
    this.stopping = true;
    this.background.stop();
    this.parts?.recoveries.stop();
    this.parts?.repair.stop();
    this.parts?.timeline.stop();
    await this.server?.close();
    // What was cut short by the end of the connections comes to its end first.
    await sleep(this.deps.clock, 0);
    await this.parts?.state.stop();
    this.deps.logger.info({}, 'master stopped');
  }
}
