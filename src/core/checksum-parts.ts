/**
 * The checksum of bytes of which a part is replaced, without reading the others. CRC-32 is linear: what a change of some bytes does
 * to it depends on that change and on how many bytes are behind (zlib's crc32_combine uses the same).
 */

/** x^32 + x^26 + … + 1 of CRC-32, the highest power first: bit 31 stands for x^0. */
const POLYNOMIAL = 0xedb88320;
const ONE = 0x80000000;

/** The product of two polynomials modulo POLYNOMIAL. */
function times(a: number, b: number): number {
  let product = 0;
  for (let rest = a; rest !== 0; rest <<= 1) {
    if (rest < 0) product ^= b;
    b = (b & 1) === 0 ? b >>> 1 : (b >>> 1) ^ POLYNOMIAL;
  }
  return product;
}

/** x^(8 · 2^i): what 2^i bytes behind do to a checksum. */
const BEHIND: number[] = [];
for (let i = 0, power = ONE >>> 8; i < 32; i++, power = times(power, power)) BEHIND.push(power);

/**
 * The checksum of bytes that had `whole`, when a part of them that had `before` is replaced by one as long that has `after`, with
 * `behind` bytes behind it (less than 2^31).
 */
export function withPart(whole: number, before: number, after: number, behind: number): number {
  let change = before ^ after;
  for (let i = 0, rest = behind; rest !== 0; i++, rest >>>= 1) {
    if ((rest & 1) !== 0) change = times(change, BEHIND[i] ?? 0);
  }
  return (whole ^ change) >>> 0;
}
