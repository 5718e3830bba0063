/**
 * Small notes that outlive the process that writes them, and not the boot of the machine, on another file system than its data:
 * for what it can no longer tell there. They come in by constructor, as the disk does.
 */
export interface BootNotes {
  /** Puts a note in the place of an earlier one of that name. Fails when no place takes it. Returns before anything else happens. */
  write(name: string, text: string): void;
  /** What is noted under a name, in each place; a note of an earlier boot may still be there. Fails when one cannot be read. */
  read(name: string): readonly string[];
  /** Fails when one stays. */
  remove(name: string): void;
}
