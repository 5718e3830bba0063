/** A directory that is measured, and what stands behind it. */
export interface Target {
  /** The head of its column. */
  readonly label: string;
  /** Where rows may make directories of their own. */
  readonly directory: string;
  /** Process ids of what serves it; none where the bench did not start it. */
  processes(): Promise<readonly number[]>;
}

/** What the bench starts: a file system with one mount, or with several. */
export interface Started {
  readonly targets: readonly Target[];
  /** Unmounts and ends it, and removes its files. What it cannot do it tells on standard error. */
  stop(): Promise<void>;
}

export type DriverName = 'kernel' | 'fuse-native';

/** What is told and does not end the run. */
export function complain(error: unknown): void {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
}

export async function attempt(operation: Promise<unknown>): Promise<void> {
  await operation.catch(complain);
}
