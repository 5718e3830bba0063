/** Bounds of the master that only one part of it knows: see core/limits.ts. */
import { CHUNK_SIZE_BYTES, MAX_DATA_DIRECTORIES, MIB, SESSION_TTL_MS } from './shared.js';

// master/chunks/stale-replicas.ts
/** Of the replicas that shall go, so many are looked at in one go. */
export const MAX_STALE_LOOK = 256;
/** More are forgotten until the next report of their server. */
export const MAX_STALE_REPLICAS = 65_536;
/** Those that are worked on at a time, in all and of one server: each may have its chunk's members read. */
export const MAX_STALE_WORKING = 16;
export const MAX_STALE_WORKING_PER_SERVER = 4;
/** What could not be deleted yet is looked at again after so long at first, and at last. */
export const STALE_PAUSE_MIN_MS = 1_000;
export const STALE_PAUSE_MAX_MS = 600_000;

// master/chunks/leases.ts
/** A lease younger than this is left to its writer, who is likely to be in the middle of a burst. */
export const LEASE_REST_MS = 3_000;
/** Leases that are ended at a time. */
export const MAX_LEASE_ENDS = 16;
/** Grants to different members for one question of a writer. */
export const MAX_GRANT_ATTEMPTS = 3;
/** After a restart of the master, time that a lease request gives its members to register. */
export const EXPECTED_SERVER_WAIT_MS = 1_500;

/** Complaints about a lease in order after which another member becomes primary. */
export const COMPLAINTS_TO_MOVE = 2;

// master/chunks/new-chunks.ts
/** After that many new sets of servers that did not all take a new chunk, the writer is told to come again. */
export const MAX_PLACEMENT_ATTEMPTS = 4;

// master/chunks/recovery-queue.ts
/** A chunk is recovered again after so long at first, and at last, unless a writer needs it. */
export const RECOVERY_PAUSE_MIN_MS = 500;
export const RECOVERY_PAUSE_MAX_MS = 300_000;
/** Chunks of which the last recovery is remembered, for that pause. */
export const MAX_RECOVERED_NOTED = 16_384;

// master/chunks/chunk-recovery.ts
/** Members that are asked in turn to lead one recovery. */
export const MAX_SOURCES_TRIED = 3;
/** Chunks with full members that wait for recovery; the hint is dropped when there are more. */
export const MAX_FULL_NOTED = 4096;
/** Damage that a recovery did not mend is looked at again after so long at first, and at last. */
export const DAMAGE_PAUSE_MIN_MS = 10_000;
export const DAMAGE_PAUSE_MAX_MS = 3_600_000;
/** Chunks of which unmended damage is remembered, for that pause. */
export const MAX_DAMAGED_NOTED = 65_536;

// master/chunks/damaged-chunks.ts
/** Chunks whose members are read at a time. */
export const MAX_DAMAGED_LOOKING = 4;
/** The members of one are read again after so long at first, and at last. */
export const DAMAGED_LOOK_PAUSE_MIN_MS = 10_000;
export const DAMAGED_LOOK_PAUSE_MAX_MS = 600_000;
/** Those of one that nobody had a lease of since. */
export const DAMAGED_UNCHANGED_PAUSE_MS = 86_400_000;
/** Such chunks, in memory: more are found again by their readers. */
export const MAX_DAMAGED_CHUNKS = 65_536;

// master/chunks/reports.ts
/** Lost replicas that are marked in one go, before other work gets its turn. */
export const MAX_LOST_AT_ONCE = 256;

// master/sessions/sessions.ts
/** From the start of the master: the time in which clients of before tell what they have open. */
export const RECLAIM_LIMIT_MS = 2 * SESSION_TTL_MS;
/** Of the name that a client gives itself, for people: a host name and more. */
export const MAX_CLIENT_NAME_BYTES = 255;

// master/sessions/lost-locks.ts
/** Files whose leases are ended at a time, for each client that went. */
export const MAX_LOST_LOCK_FENCES = 16;

// master/sessions/unpublished.ts
/** Files in one record of the log. */
export const MAX_UNPUBLISHED_SLICE = 256;

// master/sessions/replies.ts
/** Failures remembered for a session: what it may have in flight. */
export const MAX_REMEMBERED_FAILURES = 256;
/** Stored replies deleted by one operation. */
export const MAX_PRUNED_REPLIES = 64;

// master/maintenance/garbage-collector.ts
/** Pause between looks for garbage, at most; shorter where its grace is. */
export const MAX_GARBAGE_PASS_INTERVAL_MS = 1_000;

// master/maintenance/repair.ts
/** Index entries of one source that are looked at in one go. */
export const REPAIR_SLICE = 256;
/** Slices without any work that one round looks at, before others get their turn. */
export const REPAIR_SLICES_PER_ROUND = 8;

// master/maintenance/orphan-reaper.ts
/** Orphans that one step looks at. */
export const ORPHAN_SLICE = 256;

// master/maintenance/re-replication.ts
/** Candidates that wait for their turn; more are found again by the next look at the index. */
export const MAX_COPY_CANDIDATES = 1024;
/** Up to this a chunk is copied under its lock: a writer hardly notices. */
export const BRIEF_COPY_BYTES = 4 * MIB;
/** Writers wait no longer than this for a copy under the lock. */
export const HELD_COPY_TIMEOUT_MS = 8_000;
/** A copy under the lock of a leased chunk that failed is not tried again for so long, for the sake of its writers. */
export const HELD_COPY_PAUSE_MS = 30_000;
/** A copy that failed is tried again after so long at first, and at last. */
export const COPY_PAUSE_MIN_MS = 500;
export const COPY_PAUSE_MAX_MS = 300_000;
/** Chunks that wait for such a pause to end. */
export const MAX_PAUSED_COPIES = 16_384;

// master/maintenance/server-removal.ts
/** Deletions that were never told are forgotten with their server, so many at a time. */
export const MAX_FORGOTTEN_DELETIONS = 4096;
/** Chunks of a server that an answer counts: some milliseconds. */
export const MAX_COUNTED_CHUNKS = 10_000;

// master/service/status.ts
/** Index entries that one status walks: some 50 ms at most. */
export const MAX_STATUS_WALK = 20_000;

// master/service/chunk-methods.ts
/** A chunk that a client complains of is looked at again no sooner: a look may cost a recovery. */
export const CLIENT_REPORT_INTERVAL_MS = 10_000;
/** Chunks of which that is remembered. */
export const MAX_REMEMBERED_REPORTS = 4096;

// master/parts.ts
/** Ids that are made durable ahead, in one record of the log: as many are skipped by a start. */
export const HANDLE_RESERVE = 1024;
export const LEASE_RESERVE = 4096;
/** Time for the member that leads a recovery to read and mend a whole chunk. */
export const RECOVERY_TIMEOUT_MS = 30_000;
/**
 * A member that is silent for so long is replaced: it may only be starting anew. Until then nothing stands for it that may miss
 * what was not synced; a reader who waits is told an error later than that.
 */
export const SUSPECT_GRACE_MS = 30_000;
/** Time for a chunkserver to copy a whole chunk from another one. */
export const COPY_TIMEOUT_MS = 120_000;
/** Recoveries at a time. */
export const MAX_RECOVERIES = 8;
/** Two whole chunks, or many small ones: clients need the disks and the network too. */
export const MAX_COPY_BYTES_PER_SERVER = 2 * CHUNK_SIZE_BYTES;

// master/servers/calls.ts
/** Time to look at one header. */
export const CHECK_REPLICA_TIMEOUT_MS = 2_000;
/** The server may have to read all of a chunk. */
export const VERIFY_REPLICA_TIMEOUT_MS = 60_000;
/** Somebody's lock of the chunk is held meanwhile. */
export const STALE_DELETION_TIMEOUT_MS = 1_000;
export const LEAVE_OUT_TIMEOUT_MS = 1_000;

// master/servers/servers.ts
/** Those that are there, and as many that are not. */
export const MAX_TOLD_DISKS = 2 * MAX_DATA_DIRECTORIES;

// master/sessions/holdings.ts
/** Sessions that hold one inode: each has to be told of every change of it. */
export const MAX_HOLDERS = 8;
/** Parts of one holding that are recalled within HOLDING_RESTLESS_MS, after which all of it is. */
export const MAX_PARTIAL_RECALLS = 8;
export const HOLDING_RESTLESS_MS = 1_000;
/** What is granted and recalled within that time, twice, is granted to nobody for so long: doubled each time, up to the second. */
export const HOLDING_CALM_MIN_MS = 1_000;
export const HOLDING_CALM_MAX_MS = 60_000;
/** Inodes of which that is remembered. */
export const MAX_RESTLESS_INODES = 4_096;

// master/sessions/recalls.ts
/** Recalls of one session that wait for its answer: then changes wait until there are fewer. */
export const MAX_RECALLS_PER_SESSION = 1_024;
/** Parts in one message. */
export const MAX_RECALL_ITEMS = 256;
