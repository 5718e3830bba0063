/**
 * Remote procedure calls over one connection, symmetric: either side calls, either side serves.
 *
 * A `Peer` is a connection whose handshake is done (handshake.ts makes them). It matches replies to requests,
 * passes requests to the handlers it was given, keeps deadlines, and bounds what is in flight on both sides:
 * at most MAX_IN_FLIGHT_REQUESTS requests and MAX_IN_FLIGHT_BYTES of their payload. A request counts until its
 * reply has left the sending queue, so a reader that is slow stops its sender.
 */
import type { MethodDefinition, MethodTable, ReplyInitOf, RequestOf } from './methods.js';

export interface CallOptions {
  /** Time until the call fails with TIMEOUT. Default REQUEST_TIMEOUT_MS. */
  readonly timeoutMs?: number;
  /** Must not change until the call has ended. */
  readonly payload?: Uint8Array | undefined;
  readonly signal?: AbortSignal;
}

export interface CallResult<R> {
  readonly reply: R;
  readonly payload: Uint8Array;
}

export type PeerRole = 'client' | 'chunkserver' | 'master';

export interface Peer {
  readonly role: PeerRole;
  /** Where it is, for the log. */
  readonly address: string;
  /**
   * Calls `method` and waits for the answer. Fails with the code that the handler failed with, or TIMEOUT,
   * DISCONNECTED, CANCELLED, BUSY.
   */
  call<Q, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    request: QI,
    options?: CallOptions,
  ): Promise<CallResult<R>>;
  /** Ends the connection; calls in flight fail with DISCONNECTED. */
  close(reason: string): void;
  /** Resolves with the reason when the connection has ended. Never rejects. */
  readonly closed: Promise<string>;
  readonly isClosed: boolean;
}

export interface RequestContext {
  readonly peer: Peer;
  /** Payload of the request; empty when it has none. The handler may keep it. */
  readonly payload: Uint8Array;
  /** Nobody that the handler gave the payload to uses it any more: its memory may be used again. Need not be called. */
  releasePayload(): void;
  /** Fires when the caller cancelled, its deadline passed, or the connection ended. */
  readonly signal: AbortSignal;
}

export interface HandlerResult<RI> {
  readonly reply: RI;
  readonly payload?: Uint8Array;
  /** Nobody else uses the payload: when it is sent, its memory may be used again. */
  readonly payloadIsReusable?: boolean;
}

/**
 * Serves one method. A thrown CairnError becomes the caller's error; anything else is logged and becomes INTERNAL.
 * A handler that answers at once should return plainly, not a promise: the reply then goes out in the same tick.
 */
export type Handler<M> = (
  request: RequestOf<M>,
  context: RequestContext,
) => HandlerResult<ReplyInitOf<M>> | Promise<HandlerResult<ReplyInitOf<M>>>;

/**
 * Stands around every handler of one side: sees which method is asked for and with what, serves it, and may change the
 * request or the result, or throw instead. `serve` gives what the handler gives.
 */
export type Interceptor = (
  method: string,
  request: unknown,
  context: RequestContext,
  serve: (request: unknown) => HandlerResult<unknown> | Promise<HandlerResult<unknown>>,
) => HandlerResult<unknown> | Promise<HandlerResult<unknown>>;

export type Handlers<T extends MethodTable> = { readonly [K in keyof T]: Handler<T[K]> };
