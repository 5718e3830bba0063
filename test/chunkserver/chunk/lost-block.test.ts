/** A block that is lost is known by its checksum, and never passes for one that was torn. */
import t from 'tap';
import { checksum } from '../../../src/core/checksum.js';
import { BLOCK_SIZE_BYTES } from '../../../src/core/limits.js';
import { neverRight } from '../../../src/chunkserver/chunk/chunk-format.js';
import { lostBlock } from '../../../src/chunkserver/chunk/lost-block.js';

t.test('the bytes of a lost block have the complement of its checksum', async (t) => {
  for (const length of [4, 5, 1_000, BLOCK_SIZE_BYTES]) {
    for (const lost of [0, 1, 0xffff_ffff, 0x1234_5678, checksum(Buffer.alloc(length))]) {
      const bytes = lostBlock(length, lost);
      t.equal(bytes.length, length);
      t.equal(checksum(bytes), neverRight(lost), `${length} bytes with ${lost}`);
    }
  }
});

t.test('a few bytes are at least not right', async (t) => {
  for (const length of [1, 2, 3]) {
    for (const lost of [0, checksum(Buffer.alloc(length)), checksum(Buffer.alloc(length, 1))]) {
      t.not(checksum(lostBlock(length, lost)), lost);
    }
  }
});
