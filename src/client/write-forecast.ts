/**
 * Whether a file that is created will be written at once, by what became of the last ones. A file that will be gets its
 * first chunk with its creation, which saves a round trip; one that stays empty would hold a chunk for nothing.
 */

/** Weight of the last file. */
const WEIGHT = 1 / 8;
const LIKELY = 0.7;

export class WriteForecast {
  private likelihood = 0;

  get isLikely(): boolean {
    return this.likelihood > LIKELY;
  }

  /** A file that was created here is closed. */
  note(wasWritten: boolean): void {
    this.likelihood += ((wasWritten ? 1 : 0) - this.likelihood) * WEIGHT;
  }
}
