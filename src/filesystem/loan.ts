/** Bytes that are lent to whoever uses them up at once, so that their memory can be used again. */
export interface Loan {
  /** One after another. Not to be changed. */
  readonly parts: readonly Uint8Array[];
  /** To be called once, when nobody looks at the parts any more. Who does not call it keeps them. */
  release(): void;
}

/** Bytes that stay, as a loan. */
export const owned = (bytes: Uint8Array): Loan => ({ parts: [bytes], release: () => undefined });

/** Copies what is lent to the start of `into`, gives it back, and returns how much it was. */
export function takeCopy({ parts, release }: Loan, into: Uint8Array): number {
  let count = 0;
  for (const part of parts) {
    into.set(part, count);
    count += part.length;
  }
  release();
  return count;
}
