/**
 * The bytes of a chunk file that are not data: the header and the checksum table. docs/disk-format.md has the layout
 * and the reasons; a frozen file in the tests keeps it from changing unnoticed.
 */
import { checksum } from '../../core/checksum.js';
import { CairnError } from '../../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle, type ChunkVersion } from '../../core/ids.js';
import { BLOCKS_PER_CHUNK, BLOCK_SIZE_BYTES } from '../../core/limits.js';

export const CHUNK_FORMAT_VERSION = 1;
/** Two header slots, in different sectors of the first page: a torn write of one leaves the other. */
export const HEADER_SLOT_OFFSETS = [0, 2048] as const;
export const HEADER_BYTES = 128;
export const TABLE_OFFSET = 4096;
/** A row of the table: u32 current, u32 pending. */
export const ROW_BYTES = 8;
export const TABLE_BYTES = BLOCKS_PER_CHUNK * ROW_BYTES;
export const DATA_OFFSET = 16384;

const MAGIC = Buffer.from('CAIRNCHK', 'latin1');
const DIRTY_FLAG = 1;
const SYNC_FAILED_FLAG = 2;
const BOOT_OFFSET = 41;
const CRC_OFFSET = 124;

export interface ChunkHeader {
  readonly handle: ChunkHandle;
  readonly version: ChunkVersion;
  /** Counts header writes; the valid slot with the higher one counts. */
  readonly generation: number;
  /** Mutations may be unsynced, since the boot `bootId`. */
  readonly dirty: boolean;
  /** A sync failed: what of the file is on the disk is not known, whatever reading it says. */
  readonly syncFailed: boolean;
  readonly bootId: string;
}

/** What the name of a chunk file says. */
export type ChunkName = Pick<ChunkHeader, 'handle' | 'version'>;

export function encodeHeader(header: ChunkHeader): Buffer {
  const boot = Buffer.from(header.bootId, 'utf8');
  if (boot.length > CRC_OFFSET - BOOT_OFFSET) throw new CairnError('INTERNAL', `boot id too long: ${header.bootId}`);
  const bytes = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(bytes, 0);
  bytes.writeUInt32LE(CHUNK_FORMAT_VERSION, 8);
  bytes.writeUInt32LE((header.dirty ? DIRTY_FLAG : 0) | (header.syncFailed ? SYNC_FAILED_FLAG : 0), 12);
  bytes.writeBigUInt64LE(BigInt(header.handle), 16);
  bytes.writeBigUInt64LE(BigInt(header.version), 24);
  bytes.writeBigUInt64LE(BigInt(header.generation), 32);
  bytes.writeUInt8(boot.length, 40);
  boot.copy(bytes, BOOT_OFFSET);
  bytes.writeUInt32LE(checksum(bytes.subarray(0, CRC_OFFSET)), CRC_OFFSET);
  return bytes;
}

/** The header in one slot; undefined when the slot is empty or torn. Throws when a newer CairnFS wrote it. */
function decodeSlot(bytes: Buffer): ChunkHeader | undefined {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  if (checksum(bytes.subarray(0, CRC_OFFSET)) !== bytes.readUInt32LE(CRC_OFFSET)) return undefined;
  const format = bytes.readUInt32LE(8);
  if (format !== CHUNK_FORMAT_VERSION) {
    throw new CairnError('CORRUPT', `chunk file has format ${format}, this CairnFS reads ${CHUNK_FORMAT_VERSION}`);
  }
  const bootLength = bytes.readUInt8(40);
  return {
    handle: chunkHandle(Number(bytes.readBigUInt64LE(16))),
    version: chunkVersion(Number(bytes.readBigUInt64LE(24))),
    generation: Number(bytes.readBigUInt64LE(32)),
    dirty: (bytes.readUInt32LE(12) & DIRTY_FLAG) !== 0,
    syncFailed: (bytes.readUInt32LE(12) & SYNC_FAILED_FLAG) !== 0,
    bootId: bytes.toString('utf8', BOOT_OFFSET, BOOT_OFFSET + bootLength),
  };
}

/**
 * The headers in the first page of a chunk file, the newer one first: none when no slot is valid. Where one has rotted, that may have
 * been the newer one, with the mark that the file is under mutation: the other one counts as marked in a boot that nobody knows.
 */
export function decodeHeaders(page: Buffer): ChunkHeader[] {
  const slots = HEADER_SLOT_OFFSETS.map((offset) => page.subarray(offset, offset + HEADER_BYTES));
  const headers = slots.map(decodeSlot).filter((header) => header !== undefined);
  const [only] = headers;
  const isOneRotten =
    headers.length === 1 && (only?.generation !== 0 || slots.every((slot) => slot.some((byte) => byte !== 0)));
  if (isOneRotten) return headers.map((header) => ({ ...header, dirty: true, bootId: '' }));
  return headers.sort((a, b) => b.generation - a.generation);
}

/** Of a header that was made up, as both slots have rotted: the next one written is the first. */
const NO_GENERATION = -1;

/**
 * As `decodeHeaders`, in a file of that name, which knows better where they have rotted: it follows the header, so the replica has all
 * that its version has. Whether it was under mutation nobody knows. A creation that was cut short has written one slot at most.
 */
export function headersByName(page: Buffer, { handle, version }: ChunkName): ChunkHeader[] {
  const headers = decodeHeaders(page);
  const [header] = headers;
  const rotten = { version, dirty: true, bootId: '' };
  if (header !== undefined) return header.version < version ? [{ ...header, ...rotten }] : headers;
  const isWritten = (offset: number): boolean =>
    page.subarray(offset, offset + HEADER_BYTES).some((byte) => byte !== 0);
  if (!HEADER_SLOT_OFFSETS.every(isWritten)) return [];
  return [{ ...rotten, handle, generation: NO_GENERATION, syncFailed: false }];
}

export const isMadeUp = ({ generation }: ChunkHeader): boolean => generation === NO_GENERATION;

/** Which slot a header goes to. */
export function headerSlotOffset(generation: number): number {
  return HEADER_SLOT_OFFSETS[generation % 2 === 0 ? 0 : 1];
}

const ZEROS = Buffer.alloc(BLOCK_SIZE_BYTES);
/** Checksum of a block of zeros, as a hole reads. */
export const ZERO_BLOCK_SUM = checksum(ZEROS);

/** Checksum of `bytes then count zeros`, given that of `bytes`. `count` is at most a block. */
export function checksumZeros(count: number, previous = 0): number {
  if (count === BLOCK_SIZE_BYTES && previous === 0) return ZERO_BLOCK_SUM;
  return checksum(ZEROS.subarray(0, count), previous);
}

/**
 * A checksum as stored, and back: its own inverse. A row that was never written (0, 0: a hole of the file) stands for a
 * block of zeros.
 */
export const storedSum = (sum: number): number => (sum ^ ZERO_BLOCK_SUM) >>> 0;

/** Stands for a block that must never be believed, whose bytes have the checksum `sum`. Its own inverse. */
export const neverRight = (sum: number): number => ~sum >>> 0;

/** Bytes of block `block` in a chunk of `length` bytes. */
export function blockLength(block: number, length: number): number {
  return Math.max(0, Math.min(BLOCK_SIZE_BYTES, length - block * BLOCK_SIZE_BYTES));
}

export const blockCount = (length: number): number => Math.ceil(length / BLOCK_SIZE_BYTES);
export const blockOf = (offset: number): number => Math.floor(offset / BLOCK_SIZE_BYTES);
