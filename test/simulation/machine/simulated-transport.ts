/** One end of a connection of the simulated network. */
import { checksum } from '../../../src/core/checksum.js';
import { SEND_HIGH_WATER_BYTES } from '../../../src/core/limits.js';
import { payloadBuffers } from '../../../src/core/disk/payload-buffers.js';
import type { Message, Transport, TransportHandlers } from '../../../src/protocol/transport.js';
import type { SimulatedClock } from './simulated-clock.js';
import type { SimulatedNetwork } from './simulated-network.js';
import { type Incarnation } from './simulated-network.js';

const FRAME_OVERHEAD_BYTES = 60;

interface Parcel {
  /** undefined: the end of the connection. */
  readonly message: Message | undefined;
  readonly bytes: number;
  readonly sum: number;
  readonly original: Uint8Array | undefined;
  /** The original's memory may be used again when it was sent. */
  readonly reusable: boolean;
  dueUs: number;
  reason: string;
}

/** One end of a connection. What it sends waits in `outbound` until the link delivers it. */
export class SimulatedTransport implements Transport {
  private handlers: TransportHandlers | undefined;
  private remote: SimulatedTransport | undefined;
  private readonly outbound: Parcel[] = [];
  private isPumping = false;
  private lineBusyUntilUs = 0;
  private isClosed = false;
  /** The connection broke: nothing that is sent arrives any more. */
  private isCut = false;
  private readonly early: (() => void)[] = [];
  private drainWaiters: (() => void)[] = [];
  queuedBytes = 0;

  constructor(
    private readonly network: SimulatedNetwork,
    readonly owner: Incarnation,
    readonly remoteHost: string,
    readonly label: string,
    readonly peer: string,
  ) {}

  join(remote: SimulatedTransport): void {
    this.remote = remote;
  }

  start(handlers: TransportHandlers): void {
    this.handlers = handlers;
    for (const each of this.early.splice(0)) each();
  }

  send(message: Message): void {
    if (this.isClosed || !this.owner.isAlive) return;
    if (this.network.onSend?.(this.owner.host, this.remoteHost) === 'lose') {
      this.network.trace.add(`fault lose a message of ${this.label}`);
      return this.loseEverything();
    }
    const bytes = message.header.length + message.payload.length + FRAME_OVERHEAD_BYTES;
    // Received into memory that is used again, as by the real network: who gives it back too early reads other bytes.
    const copy = { header: Buffer.from(message.header), payload: payloadBuffers.take(message.payload.length) };
    copy.payload.set(message.payload);
    this.queuedBytes += bytes;
    this.enqueue({
      message: copy,
      bytes,
      sum: checksum(copy.payload),
      original: message.payload,
      reusable: message.reusable === true,
      dueUs: 0,
      reason: '',
    });
  }

  trust(): boolean {
    return true;
  }

  drained(): Promise<void> {
    if (this.isClosed || this.queuedBytes < SEND_HIGH_WATER_BYTES) return Promise.resolve();
    return new Promise((resolve) => this.drainWaiters.push(resolve));
  }

  close(reason: string): void {
    if (this.isClosed || !this.owner.isAlive) return;
    this.sayEnd();
    this.end(reason);
  }

  /** The process or the machine of this end is gone. */
  abandon(options: { tellPeer: boolean }): void {
    if (options.tellPeer && !this.isClosed) this.sayEnd();
    if (!options.tellPeer) this.outbound.length = 0;
    this.isClosed = true;
    this.handlers = undefined;
    if (this.outbound.length === 0) this.network.forget(this);
  }

  loseEverything(): void {
    const { clock, random } = this.network;
    for (const end of [this, this.remote]) {
      if (end === undefined) continue;
      end.outbound.length = 0;
      end.isPumping = false;
      end.drop(clock, random.below(200_000));
    }
  }

  /** The link was healed. */
  resume(): void {
    this.isPumping = false;
    this.pump();
  }

  private drop(clock: SimulatedClock, delayUs: number): void {
    if (this.isCut) return;
    this.isCut = true;
    clock.schedule(delayUs, () => {
      this.owner.time.whenAwake(() => {
        if (this.owner.isAlive) this.end('connection broken');
      });
    });
  }

  private sayEnd(): void {
    this.enqueue({
      message: undefined,
      bytes: 0,
      sum: 0,
      original: undefined,
      reusable: false,
      dueUs: 0,
      reason: 'closed by peer',
    });
  }

  private enqueue(parcel: Parcel): void {
    if (this.isCut) return;
    const { clock, random } = this.network;
    const link = this.network.link(this.owner.host, this.remoteHost);
    const startUs = Math.max(clock.nowUs, this.lineBusyUntilUs);
    this.lineBusyUntilUs = startUs + parcel.bytes / link.bytesPerUs;
    parcel.dueUs = this.lineBusyUntilUs + link.latencyUs + random.below(1 + link.latencyUs / 2);
    this.outbound.push(parcel);
    this.pump();
  }

  private pump(): void {
    const head = this.outbound[0];
    if (this.isPumping || head === undefined) return;
    this.isPumping = true;
    const { clock } = this.network;
    clock.schedule(head.dueUs - clock.nowUs, () => {
      // A break or a heal may have come between, and scheduled its own.
      if (this.outbound[0] !== head || !this.isPumping) return;
      if (head.message !== undefined && this.network.onMessage?.(this.owner.host, this.remoteHost) === true) {
        this.loseEverything();
        return;
      }
      if (this.network.isBlocked(this.owner.host, this.remoteHost)) return;
      this.isPumping = false;
      this.outbound.shift();
      this.deliver(head);
      this.pump();
    });
  }

  private deliver(parcel: Parcel): void {
    const { trace, clock } = this.network;
    if (parcel.original !== undefined && checksum(parcel.original) !== parcel.sum && this.owner.isAlive) {
      throw new Error(`${this.label}: the payload of a message changed before the network had taken it`);
    }
    if (parcel.reusable && parcel.original !== undefined) payloadBuffers.giveBack(parcel.original);
    this.queuedBytes -= parcel.bytes;
    if (this.queuedBytes < SEND_HIGH_WATER_BYTES) this.wakeDrained();
    if (this.isClosed && this.outbound.length === 0) this.network.forget(this);
    const { remote } = this;
    if (remote === undefined || this.network.isDown(this.remoteHost)) return;
    if (remote.isClosed || !remote.owner.isAlive) {
      // Nobody there any more: the kernel of that host answers with a reset, if this end still listens.
      const back = this.network.link(this.remoteHost, this.owner.host);
      const isSilent = this.network.isBlocked(this.remoteHost, this.owner.host);
      if (!this.isClosed && !isSilent) this.drop(clock, back.latencyUs);
      return;
    }
    if (parcel.message === undefined) {
      trace.add(`end ${this.label}`);
      remote.end(parcel.reason);
      return;
    }
    const { header, payload } = parcel.message;
    trace.add(`message ${this.label} ${header.length}:${checksum(header)} ${payload.length}:${parcel.sum}`);
    this.network.link(this.owner.host, this.remoteHost).arrivedUs = clock.nowUs;
    remote.receive(parcel.message);
  }

  private receive(message: Message): void {
    if (this.handlers === undefined) this.early.push(() => this.receive(message));
    else this.handlers.onMessage(message);
  }

  private end(reason: string): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.queuedBytes = 0;
    this.wakeDrained();
    // As a socket's, its close event comes after the call that closed it.
    this.network.clock.schedule(0, () => {
      if (!this.owner.isAlive) return;
      if (this.handlers === undefined) this.early.push(() => this.handlers?.onClose(reason));
      else this.handlers.onClose(reason);
    });
    if (this.outbound.length === 0) this.network.forget(this);
  }

  private wakeDrained(): void {
    for (const wake of this.drainWaiters.splice(0)) wake();
  }
}
