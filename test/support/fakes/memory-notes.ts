/** Notes of one machine in memory: whoever has them decides when it boots. */
import type { BootNotes } from '../../../src/core/disk/boot-notes.js';

export class MemoryNotes implements BootNotes {
  readonly notes = new Map<string, string>();

  /** For a process that may be killed: from then on it writes and removes nothing. */
  forProcess(isAlive: () => boolean): BootNotes {
    return {
      write: (name, text) => (isAlive() ? this.write(name, text) : undefined),
      read: (name) => this.read(name),
      remove: (name) => (isAlive() ? this.remove(name) : undefined),
    };
  }

  write(name: string, text: string): void {
    this.notes.set(name, text);
  }

  read(name: string): readonly string[] {
    const text = this.notes.get(name);
    return text === undefined ? [] : [text];
  }

  remove(name: string): void {
    this.notes.delete(name);
  }
}
