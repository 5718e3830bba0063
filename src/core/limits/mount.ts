/** Bounds of a mount that only one part of it knows: see core/limits.ts. */
import { MIB } from './shared.js';

// fuse/kernel/directories.ts
/** Of one page of a directory, whatever the kernel asks for. */
export const MAX_LISTING_BYTES = 1 * MIB;

// fuse/kernel/wire/init.ts
/** Asynchronous requests (readahead, writing back of mappings) that the kernel sends before it holds back. */
export const MAX_BACKGROUND_REQUESTS = 64;

// fuse/kernel/memory/notifier.ts
/**
 * Asynchronous writes each hold one of the kernel's places for background requests (MAX_BACKGROUND_REQUESTS) until they are
 * answered, and reads ahead, whose pages are locked already, need one: so no more writes than this wait at a time.
 */
export const MAX_WAITING_WRITES = 8;

// fuse/kernel/memory/size-refresh.ts
/** That takes a read and three messages to the kernel. An open is not held up for longer when no chunkserver answers. */
export const SIZE_REFRESH_MS = 2_000;

// fuse/kernel/memory/told-names.ts
/** So many that count no more are kept at most, beside as many as count. */
export const MAX_FORGOTTEN_NAMES = 1_024;

// fuse/kernel/gate/recalls.ts
/** So many names of one directory the kernel is told to let go of, one by one; of more it is asked again until it believes none. */
export const MAX_EXPIRED_NAMES = 1_024;
/** A thread that was sent an answer has taken it by then, or nobody will: others, who wait for that, do not wait longer. */
export const UNTAKEN_MS = 5_000;
