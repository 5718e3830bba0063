/** Records that several writers append to one file: whoever reads it can tell whether each is there, whole and once. */
import assert from 'node:assert/strict';

const MAGIC = 0x5ec0_4d01;
const HEADER_BYTES = 16;

/** Of `length` bytes, at least 16. */
export function record(writer: number, sequence: number, length: number): Buffer {
  const bytes = Buffer.alloc(Math.max(length, HEADER_BYTES), fillOf(writer, sequence));
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeUInt32LE(writer, 4);
  bytes.writeUInt32LE(sequence, 8);
  bytes.writeUInt32LE(bytes.length, 12);
  return bytes;
}

const fillOf = (writer: number, sequence: number): number => 1 + ((writer * 37 + sequence) % 255);

/**
 * Fails unless `bytes` are records and nothing else: no gap, no overlap, none torn, those of one writer in their order and
 * none twice. Returns how many there are of each writer.
 */
export function readRecords(bytes: Buffer): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (let at = 0; at < bytes.length;) {
    const where = `at ${at} of ${bytes.length}`;
    assert.ok(bytes.length - at >= HEADER_BYTES, `a torn header ${where}`);
    assert.equal(bytes.readUInt32LE(at), MAGIC, `no record ${where}: ${bytes.subarray(at, at + 32).toString('hex')}`);
    const [writer, sequence, length] = [4, 8, 12].map((offset) => bytes.readUInt32LE(at + offset));
    assert.ok(writer !== undefined && sequence !== undefined && length !== undefined);
    assert.ok(length >= HEADER_BYTES && at + length <= bytes.length, `a torn record of ${writer} ${where}`);
    const fill = fillOf(writer, sequence);
    const torn = bytes.subarray(at + HEADER_BYTES, at + length).findIndex((byte) => byte !== fill);
    assert.equal(torn, -1, `record ${sequence} of ${writer} ${where} is damaged at ${torn}`);
    const before = found.get(writer);
    if (before === undefined) found.set(writer, [sequence]);
    else {
      assert.ok(sequence > (before.at(-1) ?? -1), `record ${sequence} of ${writer} after ${before.at(-1) ?? -1}`);
      before.push(sequence);
    }
    at += length;
  }
  return found;
}

/** As `readRecords`, and each of the writers has all its `count` records there. */
export function checkRecords(bytes: Buffer, writers: readonly number[], count: number): void {
  const found = readRecords(bytes);
  for (const writer of writers) {
    assert.deepEqual(
      found.get(writer),
      Array.from({ length: count }, (_, sequence) => sequence),
      `the records of ${writer}`,
    );
  }
  assert.equal(found.size, writers.length);
}
