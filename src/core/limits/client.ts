/** Bounds of a client that only one part of it knows: see core/limits.ts. */
import { MAX_HOLDINGS_PER_SESSION, MAX_PAYLOAD_BYTES, REQUEST_TIMEOUT_MS, SESSION_TTL_MS } from './shared.js';

// client/chunks/chunk-map-cache.ts
/** Chunks kept of one file, so that all files together keep to MAX_CACHED_CHUNKS, with room for a few large ones. */
export const MAX_CACHED_CHUNKS_PER_FILE = 1024;

// client/chunks/chunk-writer.ts
/** Bytes that arrive damaged this often were damaged here; a block that no replica has whole stays so. */
export const MAX_CORRUPT_ATTEMPTS = 3;

// client/chunks/write-leases.ts
/** The master moves a lease at the second complaint; more are for what may come between. */
export const MAX_COMPLAINTS = 5;

// client/files/copy-range.ts
/** One call copies at most so much, so that it ends in good time: the caller goes on. */
export const MAX_COPY_CALL_BYTES = 64 * MAX_PAYLOAD_BYTES;

// client/session/parted-inodes.ts
/** One for each time that the master was put back while this client ran. */
export const MAX_PARTED_RANGES = 64;

// client/chunks/chunk-writer.ts
/** A chunkserver of an older CairnFS, which takes no batches of writes, may be upgraded meanwhile. */
export const OLD_SERVER_MEMORY_MS = 60_000;

// client/data/write-back.ts
/** Bytes under way behind which a sync is sent without waiting for them: servers have them on their disks well within its time. */
export const MAX_SYNCED_AHEAD_BYTES = MAX_PAYLOAD_BYTES;

// client/session/held-append-leases.ts
/** The master grants none within that time of its restart, nor of the death of who holds it. */
export const APPEND_ASK_TIMEOUT_MS = SESSION_TTL_MS + 2 * REQUEST_TIMEOUT_MS;

// client/files/file-table.ts
/** Inodes that one line of the log names. */
export const MAX_LOGGED_INODES = 10;

// client/data/writer.ts
/** Times that `alter` waits for writes to its range, while more come. */
export const MAX_SETTLE_TRIES = 16;

// client/session/lock-owner.ts
/** After a restart of the master no lock is granted until its clients of before are back or given up. */
export const LOCK_SET_TIMEOUT_MS = 2 * SESSION_TTL_MS + REQUEST_TIMEOUT_MS;

// client/session/holdings.ts
/** Inodes that a client holds at a time; those that it did not use lately it gives back. */
export const MAX_HELD_INODES = MAX_HOLDINGS_PER_SESSION - 8_192;
/** Holdings that one heartbeat gives back. */
export const MAX_RELEASED = 4096;

// client/inodes/whole-directories.ts
/** Names of directories that are known whole: about 100 bytes each. */
export const MAX_WHOLE_NAMES = 262_144;

// client/inodes/listings.ts
/** Entries of listings that are kept: about 150 bytes each. */
export const MAX_LISTED_ENTRIES = 262_144;
