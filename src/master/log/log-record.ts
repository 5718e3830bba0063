/**
 * One record of the operation log as bytes: u32 length, u32 CRC-32 of the payload, the payload; little-endian. The
 * payload is a `LogRecord` of the protocol's schema, written here by hand, because keys are strings of Latin-1 that the
 * generated encoder would copy twice, and every metadata mutation pays for it. The generated decoder reads it.
 */
import { checksum } from '../../core/checksum.js';
import { CairnError } from '../../core/errors.js';
import { KIB, MAX_LOG_RECORD_BYTES } from '../../core/limits.js';
import { LogRecord } from '../../protocol/generated/messages.js';
import type { Key, NewValue } from '../store/store.js';

export const FRAME_HEADER_BYTES = 8;

// Field number << 3 | wire type, of LogRecord and KeyChange.
const TAG_SEQUENCE = 0x08;
const TAG_EPOCH = 0x10;
const TAG_CHANGE = 0x1a;
const TAG_FLUSHED = 0x20;
const TAG_KEY = 0x0a;
const TAG_VALUE = 0x12;

export interface RecordHead {
  readonly sequence: number;
  readonly epoch: number;
  /** Every record up to this one was durable when this one was written. */
  readonly flushed: number;
}

/** Encodes records into one buffer that it uses again: a record is valid until the next one. */
export class RecordEncoder {
  private buffer = Buffer.allocUnsafe(64 * KIB);

  encode(head: RecordHead, changes: ReadonlyMap<Key, NewValue>): Buffer {
    let bound = FRAME_HEADER_BYTES + 64;
    for (const [key, value] of changes) bound += key.length + (value?.length ?? 0) + 32;
    if (bound > MAX_LOG_RECORD_BYTES) {
      throw new CairnError('INTERNAL', `a mutation of ${changes.size} keys is above the bound of a log record`);
    }
    if (this.buffer.length < bound) this.buffer = Buffer.allocUnsafe(bound);
    const buffer = this.buffer;
    let at = FRAME_HEADER_BYTES;
    buffer[at++] = TAG_SEQUENCE;
    at = writeVarint(buffer, at, head.sequence);
    buffer[at++] = TAG_EPOCH;
    at = writeVarint(buffer, at, head.epoch);
    buffer[at++] = TAG_FLUSHED;
    at = writeVarint(buffer, at, head.flushed);
    for (const [key, value] of changes) {
      let length = 1 + varintLength(key.length) + key.length;
      if (value !== null) length += 1 + varintLength(value.length) + value.length;
      buffer[at++] = TAG_CHANGE;
      at = writeVarint(buffer, at, length);
      buffer[at++] = TAG_KEY;
      at = writeVarint(buffer, at, key.length);
      at += buffer.write(key, at, 'latin1');
      if (value === null) continue;
      buffer[at++] = TAG_VALUE;
      at = writeVarint(buffer, at, value.length);
      buffer.set(value, at);
      at += value.length;
    }
    buffer.writeUInt32LE(at - FRAME_HEADER_BYTES, 0);
    buffer.writeUInt32LE(checksum(buffer.subarray(FRAME_HEADER_BYTES, at)), 4);
    return buffer.subarray(0, at);
  }
}

export interface DecodedRecord extends RecordHead {
  readonly changes: ReadonlyMap<Key, NewValue>;
}

/** Whether a frame at `at` is whole; 'torn' when the bytes end before it does, 'bad' when it fails its checksum. */
export type FrameState =
  | { readonly kind: 'record'; readonly payload: Buffer; readonly end: number }
  | { readonly kind: 'torn' | 'bad' | 'end' };

export function readFrame(bytes: Buffer, at: number): FrameState {
  if (at === bytes.length) return { kind: 'end' };
  if (at + FRAME_HEADER_BYTES > bytes.length) return { kind: 'torn' };
  const length = bytes.readUInt32LE(at);
  if (length === 0 || length > MAX_LOG_RECORD_BYTES) return { kind: 'bad' };
  const end = at + FRAME_HEADER_BYTES + length;
  if (end > bytes.length) return { kind: 'torn' };
  const payload = bytes.subarray(at + FRAME_HEADER_BYTES, end);
  if (checksum(payload) !== bytes.readUInt32LE(at + 4)) return { kind: 'bad' };
  return { kind: 'record', payload, end };
}

/** The sequence of a payload, without decoding the rest. */
export function sequenceOf(payload: Buffer): number {
  let value = 0;
  let scale = 1;
  for (let at = 1; at < payload.length; at++) {
    const byte = payload[at] ?? 0;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) break;
    scale *= 0x80;
  }
  return value;
}

export function decodeRecord(payload: Buffer): DecodedRecord {
  const record = LogRecord.decode(payload);
  const changes = new Map<Key, NewValue>();
  for (const { key, value } of record.changes) {
    // A copy: the value outlives the segment that it was read from.
    const text = Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1');
    changes.set(text, value === null ? null : Uint8Array.prototype.slice.call(value));
  }
  return { sequence: record.sequence, epoch: record.epoch, flushed: record.flushed, changes };
}

/** Valid frames anywhere at or behind `from`, found byte by byte: to judge what lies behind a damaged place. */
export function* findFrames(bytes: Buffer, from: number): Generator<{ at: number; record: DecodedRecord }> {
  for (let at = from; at + FRAME_HEADER_BYTES < bytes.length;) {
    // Every payload begins so; it spares a checksum at nearly every byte.
    const plausible = bytes[at + FRAME_HEADER_BYTES] === TAG_SEQUENCE;
    const frame = plausible ? readFrame(bytes, at) : undefined;
    if (frame?.kind === 'record') {
      yield { at, record: decodeRecord(frame.payload) };
      at = frame.end;
    } else {
      at++;
    }
  }
}

function varintLength(value: number): number {
  let length = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) length++;
  return length;
}

function writeVarint(buffer: Buffer, start: number, value: number): number {
  let at = start;
  let rest = value;
  while (rest >= 0x80) {
    buffer[at++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  buffer[at++] = rest;
  return at;
}
