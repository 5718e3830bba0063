/** A request on its way through the driver, and what answers it. */
import type { Cursor } from './decode.js';

export interface Request {
  readonly unique: number;
  readonly nodeid: number;
  readonly caller: Caller;
  /** By the monotonic clock. */
  readonly arrivedMs: number;
  /** Behind the header. Its bytes are valid until the answer's promise settles, or `waitsForOthers`. */
  readonly body: Cursor;
  /**
   * From now on it waits for other requests, and looks at its body no more: it keeps no room from those that it waits for.
   */
  waitsForOthers(): void;
  /** Aborted when the caller was sent a signal while it waits. */
  interrupted(): AbortSignal;
}

export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** Thread that called; 0 when it cannot be told. */
  readonly pid: number;
  /** What the kernel said of its groups: one that matters, or none. */
  readonly groups: readonly number[];
}

export interface Answer {
  /**
   * The structures that follow the header, or what makes them in the very tick in which they are sent: as long as nothing comes between,
   * they may tell the kernel to believe something.
   */
  readonly parts: readonly Uint8Array[] | (() => readonly Uint8Array[]);
  /** Called when the parts are not needed any more, whether the kernel took them or not. */
  readonly sent?: () => void;
  /** Called when nobody waited for the answer any more, which was made: takes back what only the kernel could have given back. */
  readonly undo?: () => void;
}

/** Of requests that have nothing to say but success. */
export const DONE: Answer = { parts: [] };
export const answer = (...parts: Uint8Array[]): Answer => ({ parts });

/** Undefined for requests that take no reply. */
export type Handler = (request: Request) => Promise<Answer> | Answer | undefined;
