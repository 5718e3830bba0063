/** What the state has of a session (table 'N'): who it is, and a hash of what its client must show to resume it. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { SessionRecord } from '../../protocol/generated/messages.js';

export const TOKEN_BYTES = 32;

export const hashOf = (token: Uint8Array): Buffer => createHash('sha256').update(token).digest();

export function isTokenOf({ tokenHash }: { readonly tokenHash: Buffer }, shown: Uint8Array): boolean {
  return tokenHash.length > 0 && timingSafeEqual(hashOf(shown), tokenHash);
}

interface StoredSession {
  readonly clientName: string;
  /** Empty if nobody can resume it. */
  readonly tokenHash: Buffer;
  readonly holdingsEnded: boolean;
  /** It may have holdings. */
  readonly holds: boolean;
}

export const encodeSession = ({ clientName, tokenHash, holdingsEnded, holds }: StoredSession): Uint8Array =>
  SessionRecord.encode({ clientName, ackedBelow: 0, tokenHash, holdingsEnded, holds }).finish();

export function decodeSession(value: Uint8Array): StoredSession {
  const { clientName, tokenHash, holdingsEnded, holds } = SessionRecord.decode(value);
  return { clientName, tokenHash: Buffer.from(tokenHash), holdingsEnded, holds };
}
