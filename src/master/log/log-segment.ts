/** Segments of the operation log: files `oplog-<number>` in one directory, each with a header that says who wrote it. */
import { checksum } from '../../core/checksum.js';
import type { Disk, DiskFile } from '../../core/disk/disk.js';
import { CairnError, hasCode } from '../../core/errors.js';
import { LOG_SEGMENT_BYTES, MAX_LOG_RECORD_BYTES, MIB } from '../../core/limits.js';

export const SEGMENT_HEADER_BYTES = 64;
const MAGIC = Buffer.from('CAIRNLOG', 'latin1');
const FORMAT_VERSION = 1;
const MAX_BOOT_ID_BYTES = 44;
/**
 * A segment ends after the first record that passes LOG_SEGMENT_BYTES. A spare that is late, or cannot be made for want
 * of space, lets it grow: up to here, and by one more record.
 */
export const MAX_APPEND_OFFSET_BYTES = 16 * LOG_SEGMENT_BYTES;
const MAX_SEGMENT_BYTES = MAX_APPEND_OFFSET_BYTES + MAX_LOG_RECORD_BYTES;
const READ_BYTES = 1 * MIB;

const NAME = /^oplog-([0-9]{10})$/;

export function segmentPath(directory: string, number: number): string {
  return `${directory}/oplog-${String(number).padStart(10, '0')}`;
}

/** The numbers of the segments in a directory, ascending. Files of other names are left alone. */
export async function listSegments(disk: Disk, directory: string): Promise<number[]> {
  const numbers: number[] = [];
  for await (const name of disk.list('oplog.list', directory)) {
    const match = NAME.exec(name);
    if (match?.[1] !== undefined) numbers.push(Number(match[1]));
  }
  return numbers.sort((a, b) => a - b);
}

export async function ensureDirectory(disk: Disk, directory: string): Promise<void> {
  try {
    await disk.mkdir('oplog.mkdir', directory);
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  }
}

/**
 * A new, empty segment; its header and its name survive power loss when this returns. When it fails, nothing is left but
 * what the disk refuses to delete, which the next attempt takes over, and a replay cuts off.
 */
export async function createSegment(disk: Disk, directory: string, number: number): Promise<DiskFile> {
  const path = segmentPath(directory, number);
  const file = await disk.open('oplog.create', path, 'create');
  try {
    await file.truncate('oplog.create', 0);
    await file.write('oplog.header', encodeHeader(disk.bootId()), 0);
    await file.datasync('oplog.header');
    await disk.syncDirectory('oplog.create', directory);
  } catch (error) {
    await file.close();
    await disk.unlink('oplog.create', path).catch(() => undefined);
    throw error;
  }
  return file;
}

/** The whole of a segment. */
export async function readSegment(file: DiskFile, path: string): Promise<Buffer> {
  const size = await file.size('oplog.replay');
  if (size > MAX_SEGMENT_BYTES) {
    throw new CairnError(
      'CORRUPT',
      `${path} has ${size} bytes, which no segment of the operation log has: move it away`,
    );
  }
  const bytes = Buffer.alloc(size);
  let at = 0;
  while (at < size) {
    const count = await file.read('oplog.replay', bytes.subarray(at, Math.min(size, at + READ_BYTES)), at);
    if (count === 0) break;
    at += count;
  }
  return bytes.subarray(0, at);
}

function encodeHeader(bootId: string): Buffer {
  const header = Buffer.alloc(SEGMENT_HEADER_BYTES);
  const boot = Buffer.from(bootId, 'utf8').subarray(0, MAX_BOOT_ID_BYTES);
  MAGIC.copy(header, 0);
  header.writeUInt32LE(FORMAT_VERSION, 8);
  header.writeUInt32LE(boot.length, 16);
  boot.copy(header, 20);
  header.writeUInt32LE(checksum(header), 12);
  return header;
}

/** Whether a segment's header is whole, and written since this machine booted. */
export function readHeader(bytes: Buffer, path: string, bootId: string): { readonly sameBoot: boolean } | undefined {
  if (bytes.length < SEGMENT_HEADER_BYTES) return undefined;
  const header = Buffer.from(bytes.subarray(0, SEGMENT_HEADER_BYTES));
  const sum = header.readUInt32LE(12);
  header.writeUInt32LE(0, 12);
  if (!header.subarray(0, 8).equals(MAGIC) || checksum(header) !== sum) return undefined;
  const version = header.readUInt32LE(8);
  if (version !== FORMAT_VERSION) {
    throw new CairnError(
      'CORRUPT',
      `${path} has format ${version}, this program writes ${FORMAT_VERSION}: use its release`,
    );
  }
  return { sameBoot: header.equals(withoutSum(encodeHeader(bootId))) };
}

function withoutSum(header: Buffer): Buffer {
  header.writeUInt32LE(0, 12);
  return header;
}
