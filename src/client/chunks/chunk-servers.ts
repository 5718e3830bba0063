/**
 * Connections to chunkservers by address: made when needed, shared, closed when idle, and a short memory of which
 * servers failed, so that others are asked first.
 */
import type { Clock, Timer } from '../../core/clock.js';
import { CairnError, hasCode } from '../../core/errors.js';
import {
  CHUNKSERVER_PEER_IDLE_MS,
  FAILED_SERVER_MEMORY_MAX_MS,
  FAILED_SERVER_MEMORY_MS,
  MAX_CHUNKSERVER_PEERS,
} from '../../core/limits.js';
import { watched } from '../../core/sync.js';
import type { Replica } from '../../protocol/generated/messages.js';
import type { MethodDefinition } from '../../protocol/methods.js';
import type { CallOptions, CallResult, Peer } from '../../protocol/rpc.js';

export interface ChunkServersOptions {
  readonly connect: (address: string) => Promise<Peer>;
  readonly clock: Clock;
  readonly maxPeers?: number;
  readonly idleMs?: number;
}

interface Entry {
  readonly address: string;
  readonly peer: Promise<Peer>;
  connected: Peer | undefined;
  active: number;
  lastUsedMs: number;
}

export class ChunkServers {
  private readonly entries = new Map<string, Entry>();
  /** Of servers that failed and have not answered since: how often, and until when they are avoided. */
  private readonly failed = new Map<string, { readonly times: number; readonly untilMs: number }>();
  private sweep: Timer | undefined;
  private closed = false;
  private readonly maxPeers: number;
  private readonly idleMs: number;

  constructor(private readonly options: ChunkServersOptions) {
    this.maxPeers = options.maxPeers ?? MAX_CHUNKSERVER_PEERS;
    this.idleMs = options.idleMs ?? CHUNKSERVER_PEER_IDLE_MS;
  }

  /** Calls `method` at the server. One attempt: what to do about a failure is the caller's to say. */
  async call<Q, QI, R, RI>(
    address: string,
    method: MethodDefinition<Q, QI, R, RI>,
    request: QI,
    options?: CallOptions,
  ): Promise<CallResult<R>> {
    const entry = this.entryOf(address);
    entry.active++;
    try {
      const peer = entry.connected ?? (await entry.peer);
      const result = await peer.call(method, request, options);
      if (this.failed.size > 0) this.failed.delete(address);
      return result;
    } catch (error) {
      if (hasCode(error, 'DISCONNECTED', 'UNAVAILABLE', 'TIMEOUT')) this.noteFailure(address);
      throw error;
    } finally {
      entry.active--;
      entry.lastUsedMs = this.options.clock.monotonicMs();
      if (entry.active === 0) this.scheduleSweep();
    }
  }

  /** Replicas in the order in which they are to be asked: those avoided last, the others rotated by `turn`. */
  inOrder(replicas: readonly Replica[], turn: number): Replica[] {
    const order: Replica[] = [];
    const avoided: Replica[] = [];
    for (let i = 0; i < replicas.length; i++) {
      const replica = replicas[(turn + i) % replicas.length];
      if (replica !== undefined) (this.isAvoided(replica.address) ? avoided : order).push(replica);
    }
    return order.concat(avoided);
  }

  /** Whether the server failed, or was slow, a short while ago: it is to be asked only when no other has the chunk. */
  isAvoided(address: string): boolean {
    return (this.failed.get(address)?.untilMs ?? 0) > this.options.clock.monotonicMs();
  }

  /** Whether it failed, or was slow, and has not answered since. */
  hasFailed(address: string): boolean {
    return this.failed.has(address);
  }

  /** Remembers that a server failed or was slow. What fails while it is avoided is of the same failure. */
  noteFailure(address: string): void {
    if (this.isAvoided(address)) return;
    const times = (this.failed.get(address)?.times ?? 0) + 1;
    const memoryMs = Math.min(FAILED_SERVER_MEMORY_MAX_MS, FAILED_SERVER_MEMORY_MS * 2 ** Math.min(times - 1, 10));
    this.failed.delete(address);
    this.failed.set(address, { times, untilMs: this.options.clock.monotonicMs() + memoryMs });
    for (const oldest of this.failed.keys()) {
      if (this.failed.size <= MAX_CHUNKSERVER_PEERS) break;
      this.failed.delete(oldest);
    }
  }

  close(): void {
    this.closed = true;
    this.sweep?.cancel();
    for (const entry of [...this.entries.values()]) this.remove(entry, 'client closes');
  }

  private entryOf(address: string): Entry {
    const known = this.entries.get(address);
    if (known !== undefined && known.connected?.isClosed !== true) return known;
    if (known !== undefined) this.entries.delete(address);
    if (this.closed) throw new CairnError('EBADF', 'the file system is closed');
    if (this.entries.size >= this.maxPeers) this.removeLeastUsed();
    const entry: Entry = {
      address,
      peer: watched(this.options.connect(address)),
      connected: undefined,
      active: 0,
      lastUsedMs: this.options.clock.monotonicMs(),
    };
    this.entries.set(address, entry);
    const forget = (): void => this.forget(entry);
    entry.peer.then(
      (peer) => {
        entry.connected = peer;
        if (this.entries.get(address) !== entry) peer.close('not needed any more');
        else peer.closed.then(forget, forget);
      },
      forget, // the callers that wait for it get the error
    );
    return entry;
  }

  private forget(entry: Entry): void {
    if (this.entries.get(entry.address) === entry) this.entries.delete(entry.address);
  }

  private remove(entry: Entry, reason: string): void {
    this.forget(entry);
    entry.connected?.close(reason);
  }

  private removeLeastUsed(): void {
    let least: Entry | undefined;
    for (const entry of this.entries.values()) {
      if (entry.active === 0 && (least === undefined || entry.lastUsedMs < least.lastUsedMs)) least = entry;
    }
    if (least === undefined) {
      throw new CairnError('BUSY', `${this.entries.size} chunkservers are busy for this client: try again`);
    }
    this.remove(least, 'too many connections');
  }

  private scheduleSweep(): void {
    if (this.sweep !== undefined || this.closed) return;
    this.sweep = this.options.clock.setTimer(this.idleMs, () => {
      this.sweep = undefined;
      const before = this.options.clock.monotonicMs() - this.idleMs;
      for (const entry of [...this.entries.values()]) {
        if (entry.active === 0 && entry.lastUsedMs <= before) this.remove(entry, 'idle');
      }
      if (this.entries.size > 0) this.scheduleSweep();
    });
  }
}
