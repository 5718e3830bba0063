/** Positions in a listing of a real directory, as numbers that last. */

/** Positions in directories as numbers: some file systems use all 64 bits. */
export class Cookies {
  private static readonly FIRST = 2 ** 52;
  private readonly offsets: bigint[] = [];
  private readonly numbers = new Map<bigint, number>();

  number(offset: bigint): number {
    if (offset >= 0n && offset < BigInt(Cookies.FIRST)) return Number(offset);
    const known = this.numbers.get(offset);
    if (known !== undefined) return known;
    const number = Cookies.FIRST + this.offsets.push(offset) - 1;
    this.numbers.set(offset, number);
    return number;
  }

  offset(cookie: number): bigint {
    return cookie < Cookies.FIRST ? BigInt(cookie) : (this.offsets[cookie - Cookies.FIRST] ?? 0n);
  }

  clear(): void {
    this.offsets.length = 0;
    this.numbers.clear();
  }
}
