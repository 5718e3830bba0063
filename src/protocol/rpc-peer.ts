/** The implementation of `Peer`: see rpc.ts for what it promises. */
import { asCairnError, CairnError, errorCodeOf, errorNumber } from '../core/errors.js';
import type { Clock, Timer } from '../core/clock.js';
import {
  KEEPALIVE_INTERVAL_MS,
  KEEPALIVE_TIMEOUT_MS,
  MAX_DEADLINE_MS,
  MAX_HEADER_BYTES,
  MAX_IN_FLIGHT_BYTES,
  MAX_IN_FLIGHT_REQUESTS,
  MAX_PAYLOAD_BYTES,
  MAX_SEND_QUEUE_BYTES,
  MAX_SERVED_BYTES,
  REQUEST_TIMEOUT_MS,
  SEND_HIGH_WATER_BYTES,
} from '../core/limits.js';
import { outsideLocks } from '../core/lock-order.js';
import type { Logger } from '../core/logging/logger.js';
import { payloadBuffers } from '../core/disk/payload-buffers.js';
import { deferred, unawaited } from '../core/sync.js';
import { NO_PAYLOAD, type Channel } from './channel.js';
import { EnvelopeKind, type Envelope } from './generated/messages.js';
import type { MethodDefinition } from './methods.js';
import type { CallOptions, CallResult, HandlerResult, Peer, PeerRole, RequestContext } from './rpc.js';
import { Window } from './window.js';

/** A served method with its types erased: the codec in `definition` and `handler` belong together. */
export interface ServedMethod {
  readonly name: string;
  readonly definition: MethodDefinition<unknown, unknown, unknown, unknown>;
  readonly handler: (
    request: unknown,
    context: RequestContext,
  ) => HandlerResult<unknown> | Promise<HandlerResult<unknown>>;
}

interface PendingCall {
  readonly number: number;
  readonly payloadAllowed: boolean;
  succeed(body: Uint8Array, payload: Uint8Array): void;
  fail(error: CairnError): void;
}

/** A request being served. The signal and its deadline timer exist only when the handler looks at them. */
class ServedRequest implements RequestContext {
  private controller: AbortController | undefined;
  private aborted = false;
  private timer: Timer | undefined;

  constructor(
    readonly peer: Peer,
    readonly payload: Uint8Array,
    private readonly clock: Clock,
    private readonly deadlineMs: number,
  ) {}

  get signal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      if (this.aborted) this.controller.abort();
      else if (this.deadlineMs > 0)
        this.timer = this.clock.setTimer(Math.min(this.deadlineMs, MAX_DEADLINE_MS), () => this.abort());
    }
    return this.controller.signal;
  }

  releasePayload(): void {
    payloadBuffers.giveBack(this.payload);
  }

  abort(): void {
    this.aborted = true;
    this.controller?.abort();
    this.finish();
  }

  finish(): void {
    this.timer?.cancel();
  }
}

export interface RpcPeerOptions {
  readonly channel: Channel;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly role: PeerRole;
  readonly clusterId: string;
  readonly methods: ReadonlyMap<number, ServedMethod>;
  /** Of all peers of one server. */
  readonly load?: Load;
}

/** What clients make a server hold: payload of requests that are being served. */
export interface Load {
  bytes: number;
}

export class RpcPeer implements Peer {
  readonly role: PeerRole;
  readonly clusterId: string;
  readonly closed: Promise<string>;
  private readonly channel: Channel;
  private readonly clock: Clock;
  private readonly logger: Logger;
  private readonly methods: ReadonlyMap<number, ServedMethod>;
  private readonly window = new Window();
  private readonly calls = new Map<number, PendingCall>();
  private readonly served = new Map<number, ServedRequest>();
  private readonly load: Load;
  private servedBytes = 0;
  private unsentReplies = 0;
  private nextId = 1;
  private closeReason: string | undefined;
  private lastHeardMs: number;
  private keepalive: Timer;
  private readonly resolveClosed: (reason: string) => void;

  constructor(options: RpcPeerOptions) {
    this.channel = options.channel;
    this.clock = options.clock;
    this.logger = options.logger;
    this.role = options.role;
    this.clusterId = options.clusterId;
    this.methods = options.methods;
    // Servers wait for each other: theirs must not stand back behind what clients sent, and there are few of them.
    this.load = options.role === 'client' ? (options.load ?? { bytes: 0 }) : { bytes: 0 };
    const closed = deferred<string>();
    this.closed = closed.promise;
    this.resolveClosed = closed.resolve;
    this.lastHeardMs = this.clock.monotonicMs();
    this.keepalive = this.clock.setTimer(KEEPALIVE_INTERVAL_MS, () => this.probe());
    this.channel.handle({
      onEnvelope: (envelope, payload) => this.receive(envelope, payload),
      onClose: (reason) => this.ended(reason),
    });
  }

  get address(): string {
    return this.channel.peer;
  }

  get isClosed(): boolean {
    return this.closeReason !== undefined;
  }

  close(reason: string): void {
    this.channel.close(reason);
  }

  call<Q, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    request: QI,
    options: CallOptions = {},
  ): Promise<CallResult<R>> {
    const payload = options.payload ?? NO_PAYLOAD;
    const timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS;
    return new Promise((resolve, reject) => {
      if (this.closeReason !== undefined) {
        reject(new CairnError('DISCONNECTED', `the connection to ${this.address} has ended: ${this.closeReason}`));
        return;
      }
      if (payload.length > 0 && (method.payload !== 'request' || payload.length > MAX_PAYLOAD_BYTES)) {
        reject(new CairnError('EINVAL', `method ${method.number} cannot carry ${payload.length} bytes of payload`));
        return;
      }
      if (options.signal?.aborted === true) {
        reject(new CairnError('CANCELLED', 'cancelled before it was sent'));
        return;
      }
      const body = method.request.encode(request).finish();
      if (body.length > MAX_HEADER_BYTES - 64) {
        reject(new CairnError('EINVAL', `a request of method ${method.number} with ${body.length} bytes is too large`));
        return;
      }
      const id = this.takeId();
      let sent = false;
      let leaveQueue: (() => void) | undefined;
      const settle = (): void => {
        timer.cancel();
        options.signal?.removeEventListener('abort', onAbort);
        this.calls.delete(id);
        if (sent) this.window.leave(payload.length);
        else leaveQueue?.();
      };
      const giveUp = (error: CairnError): void => {
        settle();
        if (sent) this.channel.send({ kind: EnvelopeKind.CANCEL, id });
        reject(error);
      };
      const onAbort = (): void => giveUp(new CairnError('CANCELLED', `method ${method.number} was cancelled`));
      const timer = this.clock.setTimer(timeoutMs, () =>
        giveUp(new CairnError('TIMEOUT', `${this.address} did not answer method ${method.number} in ${timeoutMs} ms`)),
      );
      options.signal?.addEventListener('abort', onAbort);
      this.calls.set(id, {
        number: method.number,
        payloadAllowed: method.payload === 'reply',
        succeed: (replyBody, replyPayload) => {
          settle();
          try {
            resolve({ reply: method.reply.decode(replyBody), payload: replyPayload });
          } catch (error) {
            const message = `malformed reply to method ${method.number}: ${String(error)}`;
            this.close(`protocol: ${message}`);
            reject(new CairnError('PROTOCOL', message));
          }
        },
        fail: (error) => {
          settle();
          reject(error);
        },
      });
      const send = (): void => {
        sent = true;
        this.channel.send(
          { kind: EnvelopeKind.REQUEST, id, method: method.number, deadlineMs: timeoutMs, body },
          payload,
        );
      };
      if (this.window.tryEnter(payload.length)) {
        send();
        return;
      }
      try {
        leaveQueue = this.window.wait(payload.length, send);
      } catch (error) {
        timer.cancel();
        this.calls.delete(id);
        options.signal?.removeEventListener('abort', onAbort);
        reject(asCairnError(error));
      }
    });
  }

  private takeId(): number {
    do {
      this.nextId = this.nextId >= 0xffff_ffff ? 1 : this.nextId + 1;
    } while (this.calls.has(this.nextId));
    return this.nextId;
  }

  private receive(envelope: Envelope, payload: Uint8Array): void {
    this.lastHeardMs = this.clock.monotonicMs();
    switch (envelope.kind) {
      case EnvelopeKind.REQUEST:
        this.serve(envelope, payload);
        return;
      case EnvelopeKind.REPLY: {
        // A reply to a call that timed out or was cancelled finds nobody.
        const call = this.calls.get(envelope.id);
        if (call !== undefined && payload.length > 0 && !call.payloadAllowed) {
          this.close(`protocol: payload in the reply to method ${call.number}`);
          return;
        }
        call?.succeed(envelope.body, payload);
        return;
      }
      case EnvelopeKind.ERROR:
        this.calls
          .get(envelope.id)
          ?.fail(new CairnError(errorCodeOf(envelope.errorCode), envelope.errorMessage.slice(0, 1000)));
        return;
      case EnvelopeKind.CANCEL:
        this.served.get(envelope.id)?.abort();
        return;
      case EnvelopeKind.PING:
        // A peer that pings and does not read is not answered more and more.
        if (this.channel.queuedBytes < SEND_HIGH_WATER_BYTES) {
          this.channel.send({ kind: EnvelopeKind.PONG, id: envelope.id });
        }
        return;
      case EnvelopeKind.PONG:
        return;
      case EnvelopeKind.INVALID:
      case EnvelopeKind.HELLO:
      case EnvelopeKind.CHALLENGE:
      case EnvelopeKind.PROOF:
      case EnvelopeKind.WELCOME:
        this.close(`protocol: message kind ${String(envelope.kind)} after the handshake`);
        return;
      default:
        // Protobuf keeps an enum open: a number of no kind arrives here.
        this.close(`protocol: unknown message kind ${String(envelope.kind satisfies never)}`);
    }
  }

  private serve(envelope: Envelope, payload: Uint8Array): void {
    const { id } = envelope;
    const method = this.methods.get(envelope.method);
    if (id === 0 || this.served.has(id)) {
      this.close(`protocol: request id ${id} is in use`);
      return;
    }
    if (method === undefined) {
      this.sendError(id, new CairnError('EOPNOTSUPP', `method ${envelope.method} is not served here`));
      return;
    }
    const { definition } = method;
    if (!definition.callers.includes(this.role)) {
      this.sendError(id, new CairnError('UNAUTHENTICATED', `a ${this.role} may not call ${method.name}`));
      return;
    }
    if (payload.length > 0 && definition.payload !== 'request') {
      this.close(`protocol: payload with ${method.name}`);
      return;
    }
    const inFlight = this.served.size + this.unsentReplies;
    if (inFlight >= 2 * MAX_IN_FLIGHT_REQUESTS || this.servedBytes + payload.length > 2 * MAX_IN_FLIGHT_BYTES) {
      // An honest caller stays within one window; twice that leaves room for calls that it gave up.
      this.sendError(id, new CairnError('BUSY', `${inFlight} requests of this connection are being served: slow down`));
      return;
    }
    if (this.load.bytes + payload.length > MAX_SERVED_BYTES) {
      this.sendError(id, new CairnError('BUSY', 'too much of other clients is being served: try again later'));
      return;
    }
    let request: unknown;
    try {
      request = definition.request.decode(envelope.body);
    } catch (error) {
      this.close(`protocol: malformed ${method.name}: ${String(error)}`);
      return;
    }
    const context = new ServedRequest(this, payload, this.clock, envelope.deadlineMs);
    this.served.set(id, context);
    this.servedBytes += payload.length;
    this.load.bytes += payload.length;
    let result: HandlerResult<unknown> | Promise<HandlerResult<unknown>>;
    try {
      result = outsideLocks(() => method.handler(request, context));
    } catch (error) {
      this.finish(id, context, () => this.sendFailure(id, method.name, error));
      return;
    }
    if (result instanceof Promise) {
      const answered = result.then(
        (done) => this.finish(id, context, () => this.sendReply(id, method, done)),
        (error: unknown) => this.finish(id, context, () => this.sendFailure(id, method.name, error)),
      );
      unawaited(answered, this.logger, method.name);
      return;
    }
    const done = result;
    this.finish(id, context, () => this.sendReply(id, method, done));
  }

  private finish(id: number, context: ServedRequest, send: () => void): void {
    context.finish();
    this.served.delete(id);
    this.servedBytes -= context.payload.length;
    this.load.bytes -= context.payload.length;
    if (this.closeReason !== undefined) return;
    send();
    if (this.channel.queuedBytes < SEND_HIGH_WATER_BYTES) return;
    // The reply still counts as in flight, so that a peer that does not read cannot make us queue without end.
    this.unsentReplies++;
    const left = (): void => {
      this.unsentReplies--;
    };
    this.channel.drained().then(left, left);
  }

  private sendReply(id: number, method: ServedMethod, result: HandlerResult<unknown>): void {
    const payload = result.payload ?? NO_PAYLOAD;
    const body = method.definition.reply.encode(result.reply).finish();
    if (body.length > MAX_HEADER_BYTES - 64 || payload.length > MAX_PAYLOAD_BYTES) {
      this.sendFailure(id, method.name, new Error(`reply of ${body.length} + ${payload.length} bytes is too large`));
      return;
    }
    this.channel.send({ kind: EnvelopeKind.REPLY, id, body }, payload, result.payloadIsReusable);
  }

  private sendFailure(id: number, name: string, thrown: unknown): void {
    const error = asCairnError(thrown);
    if (error.code === 'INTERNAL') {
      this.logger.error({ method: name, peer: this.address, err: thrown }, 'request failed by a fault in CairnFS');
    }
    this.sendError(id, error);
  }

  private sendError(id: number, error: CairnError): void {
    if (this.channel.queuedBytes > MAX_SEND_QUEUE_BYTES) {
      this.close('protocol: the peer sends requests and reads no replies');
      return;
    }
    this.channel.send({
      kind: EnvelopeKind.ERROR,
      id,
      errorCode: errorNumber(error.code),
      errorMessage: error.message.slice(0, 1000),
    });
  }

  /** Finds out that a silent peer is gone: TCP alone may take a quarter of an hour. */
  private probe(): void {
    if (this.closeReason !== undefined) return;
    const silentMs = this.clock.monotonicMs() - this.lastHeardMs;
    if (silentMs >= KEEPALIVE_TIMEOUT_MS) {
      this.close(`nothing heard for ${Math.round(silentMs)} ms`);
      return;
    }
    if (silentMs >= KEEPALIVE_INTERVAL_MS) this.channel.send({ kind: EnvelopeKind.PING, id: 0 });
    this.keepalive = this.clock.setTimer(KEEPALIVE_INTERVAL_MS, () => this.probe());
  }

  private ended(reason: string): void {
    this.closeReason = reason;
    this.keepalive.cancel();
    if (reason.startsWith('protocol:')) this.logger.warn({ peer: this.address, reason }, 'connection closed');
    for (const context of this.served.values()) context.abort();
    const error = new CairnError('DISCONNECTED', `the connection to ${this.address} ended: ${reason}`);
    for (const call of [...this.calls.values()]) call.fail(error);
    this.resolveClosed(reason);
  }
}
