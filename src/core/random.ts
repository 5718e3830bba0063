/** Randomness, as it comes into every component by its constructor. */
import { randomBytes } from 'node:crypto';

export interface Random {
  /** A whole number, evenly from 0 to `bound` - 1. `bound` is 1 to 2^32. */
  below(bound: number): number;
  /** `count` random bytes. */
  bytes(count: number): Buffer;
}

/** The system's cryptographic source. */
export class SystemRandom implements Random {
  below(bound: number): number {
    return Math.floor((randomBytes(6).readUIntBE(0, 6) / 2 ** 48) * bound);
  }

  bytes(count: number): Buffer {
    return randomBytes(count);
  }
}

/** A seeded generator (xoshiro128**, Blackman and Vigna): the same seed gives the same numbers. Not secret. */
export class SeededRandom implements Random {
  private readonly state = new Uint32Array(4);

  constructor(seed: number) {
    let x = seed >>> 0;
    for (let i = 0; i < 4; i++) {
      // splitmix32 spreads a small seed over the whole state.
      x = (x + 0x9e3779b9) >>> 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      this.state[i] = (z ^ (z >>> 16)) >>> 0;
    }
  }

  private next(): number {
    const s = this.state as unknown as [number, number, number, number];
    const product = Math.imul(s[1], 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  below(bound: number): number {
    return Math.floor((this.next() / 2 ** 32) * bound);
  }

  bytes(count: number): Buffer {
    const out = Buffer.allocUnsafe(count);
    for (let i = 0; i < count; i++) out[i] = this.next() & 0xff;
    return out;
  }
}

/** One of `items`, evenly. `items` must not be empty. */
export function pick<T>(random: Random, items: readonly T[]): T {
  const item = items[random.below(items.length)];
  if (item === undefined) throw new RangeError('pick from an empty list');
  return item;
}
