/**
 * Proof of the cluster's secret by both sides, before anything else is served (P12).
 *
 *   caller                                   server
 *   HELLO  {version, role, nonce, cluster} ─►
 *          ◄─ CHALLENGE {version, role, nonce, cluster, proof}
 *   PROOF  {proof}                         ─►
 *          ◄─ WELCOME, or ERROR and the end
 *
 * A proof is HMAC-SHA-256 under the secret over a label for the side that proves, the version, both roles, the cluster
 * and both nonces, each with its length in front. The secret never travels, a proof is of use for one connection only,
 * and one side's proof cannot be played back as the other's. What follows is neither encrypted nor signed: CairnFS
 * belongs on a network that its owner trusts.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { CairnError, errorCodeOf, errorNumber, asCairnError } from '../core/errors.js';
import type { Clock } from '../core/clock.js';
import { HANDSHAKE_TIMEOUT_MS } from '../core/limits.js';
import type { Random } from '../core/random.js';
import { deferred, type Deferred } from '../core/sync.js';
import { Channel, NO_PAYLOAD } from './channel.js';
import { Challenge, EnvelopeKind, Hello, Proof, Role, Welcome, type Envelope } from './generated/messages.js';
import type { PeerRole } from './rpc.js';
import type { Transport } from './transport.js';

export const PROTOCOL_VERSION = 2;
const NONCE_BYTES = 32;
const MIN_NONCE_BYTES = 16;
const MAX_NONCE_BYTES = 64;

export interface HandshakeOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly secret: Buffer;
  readonly role: PeerRole;
}

export interface HandshakeResult {
  readonly channel: Channel;
  readonly peerRole: PeerRole;
  readonly clusterId: string;
}

const ROLE_NUMBERS: Readonly<Record<PeerRole, Role>> = {
  client: Role.CLIENT,
  chunkserver: Role.CHUNKSERVER,
  master: Role.MASTER,
};

function roleOf(number: number): PeerRole {
  const role = (Object.keys(ROLE_NUMBERS) as PeerRole[]).find((name) => ROLE_NUMBERS[name] === number);
  if (role === undefined) throw new CairnError('PROTOCOL', `unknown role ${number}`);
  return role;
}

interface Transcript {
  readonly callerRole: Role;
  readonly serverRole: Role;
  readonly clusterId: string;
  readonly callerNonce: Uint8Array;
  readonly serverNonce: Uint8Array;
}

function prove(secret: Buffer, side: 'caller' | 'server', transcript: Transcript): Buffer {
  const hmac = createHmac('sha256', secret);
  const fields = [
    Buffer.from(`cairnfs ${side}`),
    Buffer.from([PROTOCOL_VERSION, transcript.callerRole, transcript.serverRole]),
    Buffer.from(transcript.clusterId),
    transcript.callerNonce,
    transcript.serverNonce,
  ];
  for (const field of fields) {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(field.length);
    hmac.update(length).update(field);
  }
  return hmac.digest();
}

function proofMatches(secret: Buffer, side: 'caller' | 'server', transcript: Transcript, proof: Uint8Array): boolean {
  const expected = prove(secret, side, transcript);
  return proof.length === expected.length && timingSafeEqual(proof, expected);
}

/** The envelopes of a handshake, one at a time. Between two of them, and after the last, the channel keeps what arrives. */
class Exchange {
  private waiting: Deferred<Envelope> | undefined;
  private failure: CairnError | undefined;

  constructor(private readonly channel: Channel) {}

  fail(error: CairnError): void {
    this.failure ??= error;
    this.waiting?.reject(error);
  }

  async next(kind: EnvelopeKind): Promise<Uint8Array> {
    if (this.failure !== undefined) throw this.failure;
    const waiting = deferred<Envelope>();
    this.waiting = waiting;
    this.channel.handle({
      onEnvelope: (envelope, payload) => {
        this.channel.release();
        if (payload.length > 0) this.fail(new CairnError('PROTOCOL', 'payload in the handshake'));
        else waiting.resolve(envelope);
      },
      onClose: (reason) =>
        this.fail(new CairnError('DISCONNECTED', `${this.channel.peer} ended the connection: ${reason}`)),
    });
    const envelope = await waiting.promise;
    if (envelope.kind === EnvelopeKind.ERROR) {
      throw new CairnError(errorCodeOf(envelope.errorCode), envelope.errorMessage.slice(0, 1000));
    }
    if (envelope.kind !== kind) {
      throw new CairnError('PROTOCOL', `expected message kind ${kind} of the handshake, got ${envelope.kind}`);
    }
    return envelope.body;
  }
}

async function withTimeout<T>(clock: Clock, channel: Channel, exchange: Exchange, run: () => Promise<T>): Promise<T> {
  const timer = clock.setTimer(HANDSHAKE_TIMEOUT_MS, () => {
    exchange.fail(
      new CairnError('TIMEOUT', `${channel.peer} did not finish the handshake in ${HANDSHAKE_TIMEOUT_MS} ms`),
    );
  });
  try {
    return await run();
  } catch (error) {
    channel.close(`handshake: ${asCairnError(error).message}`);
    throw error;
  } finally {
    timer.cancel();
  }
}

function decodeOrFail<T>(codec: { decode(bytes: Uint8Array): T }, bytes: Uint8Array): T {
  try {
    return codec.decode(bytes);
  } catch (error) {
    throw new CairnError('PROTOCOL', `malformed handshake message: ${String(error)}`);
  }
}

function checkPeer(hello: { protocolVersion: number; nonce: Uint8Array }): void {
  if (hello.protocolVersion !== PROTOCOL_VERSION) {
    throw new CairnError(
      'PROTOCOL',
      `the peer speaks protocol version ${hello.protocolVersion}, this one ${PROTOCOL_VERSION}: run the same CairnFS release on both`,
    );
  }
  if (hello.nonce.length < MIN_NONCE_BYTES || hello.nonce.length > MAX_NONCE_BYTES) {
    throw new CairnError('PROTOCOL', `a nonce of ${hello.nonce.length} bytes`);
  }
}

/** The caller's side. Fails with UNAUTHENTICATED when the server does not have the same secret or is not `expectRole`. */
export async function callerHandshake(
  transport: Transport,
  options: HandshakeOptions & { readonly expectRole: PeerRole; readonly clusterId?: string | undefined },
): Promise<HandshakeResult> {
  const channel = new Channel(transport);
  const exchange = new Exchange(channel);
  return withTimeout(options.clock, channel, exchange, async () => {
    const nonce = options.random.bytes(NONCE_BYTES);
    const role = ROLE_NUMBERS[options.role];
    const hello = { protocolVersion: PROTOCOL_VERSION, role, nonce, clusterId: options.clusterId ?? '' };
    channel.send({ kind: EnvelopeKind.HELLO, body: Hello.encode(hello).finish() });

    const challenge = decodeOrFail(Challenge, await exchange.next(EnvelopeKind.CHALLENGE));
    checkPeer(challenge);
    const peerRole = roleOf(challenge.role);
    const transcript: Transcript = {
      callerRole: role,
      serverRole: challenge.role,
      clusterId: challenge.clusterId,
      callerNonce: nonce,
      serverNonce: challenge.nonce,
    };
    if (!proofMatches(options.secret, 'server', transcript, challenge.proof)) {
      throw new CairnError(
        'UNAUTHENTICATED',
        `${channel.peer} does not have this cluster's secret: give both sides the same secret file`,
      );
    }
    if (peerRole !== options.expectRole) {
      throw new CairnError(
        'UNAUTHENTICATED',
        `${channel.peer} is a ${peerRole}, not a ${options.expectRole}: check the address`,
      );
    }
    if (options.clusterId !== undefined && options.clusterId !== challenge.clusterId) {
      // A server with a new disk, as long as it did not reach the master: it will be of this cluster soon.
      if (challenge.clusterId === '') {
        throw new CairnError('UNAVAILABLE', `${channel.peer} belongs to no cluster yet: it has not reached its master`);
      }
      throw new CairnError(
        'UNAUTHENTICATED',
        `${channel.peer} belongs to cluster ${challenge.clusterId}, not to ${options.clusterId}: check the address and the data directory`,
      );
    }
    channel.trust();
    channel.send({
      kind: EnvelopeKind.PROOF,
      body: Proof.encode({ proof: prove(options.secret, 'caller', transcript) }).finish(),
    });
    decodeOrFail(Welcome, await exchange.next(EnvelopeKind.WELCOME));
    return { channel, peerRole, clusterId: challenge.clusterId };
  });
}

/** The server's side. A peer that fails is told why, and the connection ends. */
export async function serverHandshake(
  transport: Transport,
  options: HandshakeOptions & { readonly accept: readonly PeerRole[]; readonly clusterId: string },
): Promise<HandshakeResult> {
  const channel = new Channel(transport);
  const exchange = new Exchange(channel);
  return withTimeout(options.clock, channel, exchange, async () => {
    try {
      const hello = decodeOrFail(Hello, await exchange.next(EnvelopeKind.HELLO));
      checkPeer(hello);
      const peerRole = roleOf(hello.role);
      const transcript: Transcript = {
        callerRole: hello.role,
        serverRole: ROLE_NUMBERS[options.role],
        clusterId: options.clusterId,
        callerNonce: hello.nonce,
        serverNonce: options.random.bytes(NONCE_BYTES),
      };
      const challenge = {
        protocolVersion: PROTOCOL_VERSION,
        role: transcript.serverRole,
        nonce: transcript.serverNonce,
        clusterId: options.clusterId,
        proof: prove(options.secret, 'server', transcript),
      };
      channel.send({ kind: EnvelopeKind.CHALLENGE, body: Challenge.encode(challenge).finish() });
      const proof = decodeOrFail(Proof, await exchange.next(EnvelopeKind.PROOF));
      if (!proofMatches(options.secret, 'caller', transcript, proof.proof)) {
        throw new CairnError('UNAUTHENTICATED', "the caller does not have this cluster's secret");
      }
      if (!options.accept.includes(peerRole)) {
        throw new CairnError('UNAUTHENTICATED', `a ${options.role} does not serve a ${peerRole}`);
      }
      if (hello.clusterId !== '' && hello.clusterId !== options.clusterId) {
        throw new CairnError('UNAUTHENTICATED', `this is cluster ${options.clusterId}, not ${hello.clusterId}`);
      }
      if (!channel.trust()) {
        throw new CairnError('BUSY', `this ${options.role} has as many connections as it can have: try again later`);
      }
      channel.send({ kind: EnvelopeKind.WELCOME }, NO_PAYLOAD);
      return { channel, peerRole, clusterId: options.clusterId };
    } catch (error) {
      const { code, message } = asCairnError(error);
      channel.send({ kind: EnvelopeKind.ERROR, errorCode: errorNumber(code), errorMessage: message });
      throw error;
    }
  });
}
