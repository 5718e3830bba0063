/**
 * Bytes that stand for those of a block which no server had whole: the table keeps the checksum of what is lost, so that a
 * replica that turns up can prove that it has it, and the bytes in the file have the complement of that checksum, which
 * tells them from a block that was torn by a power loss (`ChunkFile.acceptTorn`).
 */
import { checksum } from '../../core/checksum.js';
import { neverRight } from './chunk-format.js';

/** Bytes at the end that make a checksum what is wanted. */
const PATCH_BYTES = 4;
const POLYNOMIAL = 0xedb88320;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  return value;
});
/** By its highest byte, what a register was before a byte of zero was taken in. */
const BACKWARDS = new Uint32Array(256);
TABLE.forEach((value, byte) => (BACKWARDS[value >>> 24] = (value << 8) ^ byte));

/** `length` bytes that are never taken for those with the checksum `lost`. */
export function lostBlock(length: number, lost: number): Buffer {
  const bytes = Buffer.alloc(length);
  if (length < PATCH_BYTES) {
    // Too few to choose a checksum: anything that is not right does.
    if (checksum(bytes) === lost) bytes.fill(1);
    return bytes;
  }
  let register = ~neverRight(lost);
  for (let i = 0; i < PATCH_BYTES; i++) register = (register << 8) ^ (BACKWARDS[register >>> 24] ?? 0);
  const before = ~checksum(bytes.subarray(0, length - PATCH_BYTES));
  bytes.writeUInt32LE((register ^ before) >>> 0, length - PATCH_BYTES);
  return bytes;
}

/**
 * The block that has the checksum `sum`, from what an older replica has of it and from the damaged bytes that came in its place:
 * the only thing that can be done to a damaged block, short of writing it anew, is to append to it.
 */
export function mendedBlock(older: Uint8Array, damaged: Uint8Array, sum: number): Buffer | undefined {
  const block = Buffer.from(damaged);
  block.set(older.subarray(0, block.length));
  return checksum(block) === sum ? block : undefined;
}

/** Whether `bytes` end with what makes the checksum `sum` of whatever had the checksum `before`, and stood in the place of the rest. */
export function isContinued(bytes: Uint8Array, before: number, sum: number): boolean {
  let register = ~sum;
  for (let at = bytes.length - 1; at > 0; at--) {
    register = (register << 8) ^ (BACKWARDS[register >>> 24] ?? 0) ^ (bytes[at] ?? 0);
    if (~register >>> 0 === before) return true;
  }
  return false;
}
