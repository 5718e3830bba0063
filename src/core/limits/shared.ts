/** Bounds that several parts of CairnFS know, and the relations between them, which are asserted at the end. */
import assert from 'node:assert/strict';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** Bytes of a file that one chunk holds (GFS section 2.5). Fixed for the life of a cluster. */
export const CHUNK_SIZE_BYTES = 64 * MIB;
/** Bytes under one checksum (GFS section 5.2). */
export const BLOCK_SIZE_BYTES = 64 * KIB;
export const BLOCKS_PER_CHUNK = CHUNK_SIZE_BYTES / BLOCK_SIZE_BYTES;

// ---- Messages and connections -------------------------------------------------------------------

/** Bytes of payload that one message may carry: one readahead or write-behind unit. */
export const MAX_PAYLOAD_BYTES = 1 * MIB;
/** Buffers for payloads that a process keeps, to use them again: what a few clients have in flight, or four readers ahead. */
export const MAX_PAYLOAD_BUFFERS = 56;
/** Bytes of a message's header: a page of a directory or of a chunk report is the largest. */
export const MAX_HEADER_BYTES = 256 * KIB;
/** Requests that one side of a connection may have unanswered. More is a protocol error. */
export const MAX_IN_FLIGHT_REQUESTS = 256;
/** Bytes of request payload that one side of a connection may have unanswered. */
export const MAX_IN_FLIGHT_BYTES = 32 * MIB;
/** Requests that wait in a process for a place among those in flight, before BUSY. */
export const MAX_QUEUED_REQUESTS = 8192;
/** Unsent bytes in a connection at which its sender waits for them to drain. */
export const SEND_HIGH_WATER_BYTES = 4 * MIB;
/** Unsent bytes in a connection at which a peer that only sends is cut off: a window of full replies fits. */
export const MAX_SEND_QUEUE_BYTES = 512 * MIB;
/** Connections of peers that proved the secret; fewer where the process may not open so many files (core/disk/descriptors.ts). */
export const MAX_CONNECTIONS = 4096;
/** Time for a new connection to prove the secret: two round trips, on machines that are busy. */
export const HANDSHAKE_TIMEOUT_MS = 5_000;
/**
 * Connections that have not, in all and of one address. Each takes some 40 KiB. A new one takes the place of the oldest,
 * so who needs 10 ms for the proof gets through a flood of 20,000 a second.
 */
export const MAX_UNPROVEN_CONNECTIONS = 256;
export const MAX_UNPROVEN_OF_ADDRESS = 192;
/** Of one message of a peer that has proved the secret: ours have two. */
export const MAX_MESSAGE_FRAGMENTS = 1024;
/** Bytes of a message, and fragments, before the proof: a hello, a challenge, a proof or an error. */
export const MAX_UNPROVEN_MESSAGE_BYTES = 2 * KIB;
export const MAX_UNPROVEN_FRAGMENTS = 4;
/** Bytes of the HTTP request that asks for a WebSocket. */
export const MAX_UPGRADE_BYTES = 4 * KIB;
/** Bytes of messages that have come in part, of all connections together: some 400 of the largest. */
export const MAX_PARTIAL_BYTES = 512 * MIB;
/** Bytes that wait for peers which read slowly or not at all, of all connections together: as much as for one of them. */
export const MAX_UNREAD_BYTES = 512 * MIB;
/** Bytes of the requests of clients that a server works on, of all connections together: sixteen windows. */
export const MAX_SERVED_BYTES = 512 * MIB;

// ---- Processes ----------------------------------------------------------------------------------

/** Lines of a log with one message: so many at once, then one in so long; and how many messages are told apart. */
export const LOG_LINE_BURST = 50;
export const LOG_LINE_INTERVAL_MS = 2_000;
export const MAX_LOG_MESSAGES = 1_000;
/** What was left out is told after so long at the latest. */
export const LOG_SUMMARY_MS = 60_000;
/** Bytes at which a log file begins anew, and how many before it are kept: 40 MiB for a process in all. */
export const MAX_LOG_FILE_BYTES = 8 * MIB;
export const LOG_GENERATIONS = 4;
/** File descriptors that a process keeps for the moment when there are no others. */
export const SPARE_DESCRIPTORS = 8;

// ---- Time of requests and connections -----------------------------------------------------------

/** Time that a caller can ask a server to work on a request: far above any that is asked. */
export const MAX_DEADLINE_MS = 600_000;
/** Silence after which a connection is probed, and then given up. */
export const KEEPALIVE_INTERVAL_MS = 2_000;
export const KEEPALIVE_TIMEOUT_MS = 10_000;

// ---- Names, attributes, files -------------------------------------------------------------------

/** Bytes of a name in a directory: NAME_MAX of Linux. */
export const MAX_NAME_BYTES = 255;
/** Bytes of a path or of a symlink's target: PATH_MAX of Linux, without its NUL. */
export const MAX_PATH_BYTES = 4095;
/** Symlinks followed in one path: MAXSYMLINKS of Linux. */
export const MAX_SYMLINKS_FOLLOWED = 40;
/** Hard links of one inode, as ext4 has. */
export const MAX_LINKS = 65_000;
/** Bytes of an xattr's name, of its value, and of all names of an inode: XATTR_*_MAX of Linux. */
export const MAX_XATTR_NAME_BYTES = 255;
export const MAX_XATTR_VALUE_BYTES = 64 * KIB;
export const MAX_XATTR_LIST_BYTES = 64 * KIB;
/** Bytes of all xattrs of an inode, names and values: what removing the inode may cost in one record of the log. */
export const MAX_XATTRS_BYTES = 128 * KIB;
/** Entries of an access control list: what fits into a block of ext4. */
export const MAX_ACL_ENTRIES = 506;
/** Supplementary groups of a caller that are looked at: what the kernel's FUSE passes at most. */
export const MAX_GROUPS = 1024;
/** Ranges of ids that a mount maps: each is looked at for each attribute. Linux has as many in a user namespace. */
export const MAX_ID_RANGES = 340;
/** Clusters of this machine that are remembered so that commands find them: each is looked at by every command. */
export const MAX_LOCAL_CLUSTERS = 32;
/** Largest file: sizes stay safe integers with room for rounding up to a chunk. */
export const MAX_FILE_BYTES = 2 ** 50;
/** Entries in one page of a directory listing. */
export const MAX_READDIR_ENTRIES = 512;
/** Directories that are listed with another one, as they may be needed next. */
export const MAX_LISTED_AHEAD = 8;
/** Chunks in one page of a file's chunk map, and in one page of a chunkserver's report. */
export const MAX_CHUNKS_PER_PAGE = 512;
export const MAX_REPORT_ENTRIES = 4096;
/** Replicas of one chunk. */
export const MAX_REPLICAS = 8;

// ---- State of the master ------------------------------------------------------------------------

/** Bytes of one record of the operation log: far above any operation, far below what would stall the master. */
export const MAX_LOG_RECORD_BYTES = 32 * MIB;
/** Bytes at which the operation log goes on in a new segment: small, so that space behind the checkpoint is freed soon. */
export const LOG_SEGMENT_BYTES = 16 * MIB;
/**
 * Space that the master keeps for itself in a file (at most 1/32 of the disk), for what must go on when the disk is
 * full: removals, and writing down what was accepted. Below three times this the namespace does not grow.
 */
export const MASTER_RESERVE_BYTES = 32 * MIB;
/** Segments and transactions while space is scarce: what they take for a moment must fit. */
export const SCARCE_SEGMENT_BYTES = 256 * KIB;
export const SCARCE_TRANSACTION_CHANGES = 256;
/** Pause before the store is asked again to take what it had no space for, and errors of its disk that are tried again. */
export const COMMIT_RETRY_MS = 1_000;
export const MAX_COMMIT_ERRORS = 3;
/** Changed keys and bytes that the master holds in memory before mutations wait for the store. Twice this while it commits. */
export const MAX_OVERLAY_CHANGES = 64 * KIB;
export const MAX_OVERLAY_BYTES = 32 * MIB;
/** No more inodes than these can have been made and never flushed when the master loses power. */
export const LOST_INODES_BOUND = 1024 * KIB;
/**
 * How far the counters of handles and lease ids, and of inodes, jump when a master finds that its state was put back: past all
 * that can have been given meanwhile. Some thousand such jumps, and some million epochs, leave them safe integers.
 */
export const COUNTER_JUMP = 2 ** 40;
export const INODE_JUMP = 2 ** 32;
/** And the version that recoveries give at least: a chunk is not recovered so often. */
export const VERSION_JUMP = 2 ** 24;
/** Beginnings of epochs that a master remembers, to tell its own past from another: 8 KiB. */
export const MAX_EPOCHS_REMEMBERED = 256;
/** After its start a master waits so long for the first chunkserver, which may know better, before it gives out inode numbers. */
export const WITNESS_WAIT_MS = 5_000;
/** Pause between two writes of a chunkserver's mark of the master: what it forgets in a crash its replicas mostly tell. */
export const MARK_INTERVAL_MS = 30_000;
/** A replica of a chunk that the master does not know is kept aside for so long: time to put the right metadata back. */
export const ASIDE_KEEP_MS = 7 * 24 * 3600 * 1000;
/** With less than this free (and a sixteenth of the disk), the replicas that are aside for longest go first. */
export const ASIDE_MIN_FREE_BYTES = 1 * GIB;
/** Chunks that are looked at in one go when another number of replicas is wanted, or when a server is removed: 2 ms of work. */
export const RECOUNT_SLICE = 256;
/** Changed keys at which the overlay is committed to the store at once, and the time after which it is anyway. */
export const COMMIT_CHANGES = 16 * KIB;
export const COMMIT_DELAY_MS = 1_000;
/** Values of the store that the master keeps for the next reader, and the largest such: some 8 MiB at most. */
export const READ_CACHE_ENTRIES = 16 * KIB;
export const READ_CACHE_VALUE_BYTES = 512;
/** Changes in one transaction: handing them to the store keeps the event loop busy for 1-2 us each. */
export const TRANSACTION_CHANGES = 4 * KIB;

// ---- Leases, heartbeats, sessions ---------------------------------------------------------------

/** A chunk lease (GFS section 3.1: 60 s). Renewed by writers while they write. */
export const LEASE_TTL_MS = 60_000;
/** Chunks that are made ahead of need at most, how many at once, and the age at which one is given up. */
export const MAX_SPARE_CHUNKS = 64;
export const MAX_SPARES_IN_MAKING = 16;
export const SPARE_AGE_MS = 20_000;
/** Heartbeats of chunkservers and of client sessions. */
export const HEARTBEAT_INTERVAL_MS = 2_000;
/** A chunkserver unheard of for so long is dead to the master; it stops serving by itself before. */
export const CHUNKSERVER_DEAD_MS = 10_000;
export const CHUNKSERVER_FENCE_MS = 8_000;
/** Time between two looks of the master at who is silent, of one second each, beyond which it stood still itself. */
export const MASTER_STALL_MS = 2_000;
/**
 * A reader does not believe a chunkserver that heard from the master last so long before the reader did: it may be given up.
 * Who reads hears from the master at least once a heartbeat, so that much sooner than it is.
 */
export const MAX_MASTER_LAG_MS = 7_000;
/** Somebody else may append to a file when the client that did is unheard of for so long. */
export const APPEND_TAKEOVER_MS = 10_000;
/** A client appends for so long at least before it lets others, */
export const APPEND_HOLD_MS = 5;
/** lets go of a file that it did not append to for so long, */
export const APPEND_IDLE_MS = 1_000;
/** and begins to ask whether others want to when it holds a file for so long: most are closed by then. */
export const APPEND_POLL_AFTER_MS = 50;
/** What a client holds it believes for so long after it sent the last heartbeat that was answered, and so does its kernel; */
export const HOLDING_VALID_MS = 8_000;
/** what it holds is changed without it when it is unheard of for so long, or leaves a recall without an answer. */
export const HOLDING_TAKEOVER_MS = 10_000;
/** A recall is sent again after so long. */
export const RECALL_RESEND_MS = 2_000;
/** Holdings that the master remembers, and those of one session. */
export const MAX_HOLDINGS = 262_144;
export const MAX_HOLDINGS_PER_SESSION = 65_536;
/** A client session unheard of for so long ends, with its opens and leases. */
export const SESSION_TTL_MS = 60_000;
/** Files that were closed wait so long for a request that takes the word to the master, and no more than so many do. */
export const GIVE_BACK_DELAY_MS = 2;
export const MAX_GIVEN_BACK = 64;

// ---- Mounts -------------------------------------------------------------------------------------

/** Files that one mount has open at a time; handles are small numbers, used again. */
export const MAX_MOUNT_OPEN_FILES = 65_536;
/** Requests of the kernel that a mount works on at a time, but those that wait for locks; then callers wait in the kernel. */
export const MAX_KERNEL_REQUESTS = 1024;
/** Threads of a mount's programs that were told ESTALE a moment ago: for each a file may be held open. */
export const MAX_SECOND_LOOKS = 1024;
/**
 * Names of files that a mount remembers for as long as the kernel believes them, at 300 bytes each: as many as the fastest
 * listing tells in that time.
 */
export const MAX_TOLD_NAMES = 131_072;
/** Names that an open asks about: a program came by one of them, and more than a few hard links are rare. */
export const MAX_OPEN_NAMES = 16;
/** Buffers of a mount for requests of the kernel, each with room for a write of 1 MiB. */
export const KERNEL_BUFFERS = 32;
/** Inodes whose change counter a mount remembers, to know whether the kernel's pages of them are current. */
export const MAX_PAGE_CACHE_GUARDS = 65_536;
/**
 * Entries of a directory that the fuse-native driver hands over with inode number and type, at 250 bytes each; a longer
 * listing goes without, because libfuse takes a listing whole.
 */
export const MAX_TYPED_LISTING = 50_000;

/** Bytes that the kernel reads ahead of a sequential reader, with the kernel driver: four requests of the largest size. */
export const KERNEL_READAHEAD_BYTES = 4 * MIB;

// ---- Operations, and what the master keeps of its clients ---------------------------------------

/** Time that a metadata or data operation is retried before its caller gets an error. */
export const CLIENT_OPERATION_TIMEOUT_MS = 60_000;
/** Time for one attempt of a request to a server. */
export const REQUEST_TIMEOUT_MS = 10_000;
/** Chunks that one record of the operation log frees: some 300 KiB of record, a few milliseconds of work. */
export const MAX_CHUNKS_PER_RECORD = 4096;
/** Chunk leases that stand at a time; the oldest are ended early. Also what a restarted master loads of them. */
export const MAX_ACTIVE_LEASES = 32_768;
/** Chunkservers of a cluster: all of them are in memory, and in one status reply. */
export const MAX_CHUNKSERVERS = 1024;
/** Client sessions that stand at a time: more than there may be connections, as some wait to be resumed. */
export const MAX_SESSIONS = 8192;
/**
 * Replies kept for a session: what many programs change while one change waits, as long as for a client that appends and is gone. They
 * are kept from that one on.
 */
export const MAX_STORED_REPLIES = 16_384;
/** Files that one session may hold open. */
export const MAX_OPENS_PER_SESSION = 1_000_000;
/** Files in one page of a reclaim. */
export const MAX_RECLAIM_ENTRIES = 4096;

/** Ranges that one session may have locked, and requests that may wait: a lock is some 200 bytes in the master. */
export const MAX_LOCKS_PER_SESSION = 65_536;
/** Ranges that are locked in one file, by all together: one file must not take all that a session may have. */
export const MAX_LOCKS_PER_FILE = 32_768;
/** Locks that are looked at to find a deadlock: some milliseconds. */
export const MAX_DEADLOCK_STEPS = 10_000;
export const MAX_LOCK_WAITS_PER_SESSION = 4_096;
/** Bytes of a lock owner's name in its session. */
export const MAX_LOCK_OWNER_BYTES = 64;
/** Time that a poll for granted locks stays unanswered: well within REQUEST_TIMEOUT_MS. */
export const LOCK_POLL_MS = 4_000;
/** Time that a request which could be had waits behind an earlier one that cannot, so that readers starve no writer. */
export const LOCK_HOLD_BACK_MS = 1_000;

// ---- Clients: caches, reads, writes -------------------------------------------------------------

/** Smallest and largest pause between attempts of a client; they double, with jitter. */
export const RETRY_PAUSE_MIN_MS = 20;
export const RETRY_PAUSE_MAX_MS = 1_000;
/** Time that a client keeps attributes and names, unless told otherwise: what NFS and FUSE users expect. */
export const CLIENT_CACHE_TTL_MS = 1_000;
/** Inodes, and names, in a client's cache: about 300 bytes each. */
export const MAX_CACHED_INODES = 65_536;
/** Time that chunk locations are believed. Wrong ones are refused by version, so this bounds only holes' and moves' delay. */
export const CHUNK_MAP_TTL_MS = 30_000;
/** Chunk locations in a client's cache, and chunks asked for at once: 256 MiB of a file that is read in order. */
export const MAX_CACHED_CHUNKS = 16_384;
export const CHUNK_MAP_FETCH = 4;
/** Maps of the holes in chunks that a client keeps for a moment: some 300 bytes each. */
export const MAX_CACHED_BLOCK_MAPS = 256;
/** Files that a client remembers to have closed, and inodes that it remembers to have changed, without an fsync: some 200 bytes each. */
export const MAX_UNSYNCED_FILES = 65_536;
/** Files closed with a failed write-back that no write or fsync told of, remembered for the next fsync. */
export const MAX_FAILED_FILES = 1024;
/** Failed write-backs of one file are logged no more often. */
export const FAILURE_LOG_INTERVAL_MS = 10_000;
/** Write leases in a client's cache. */
export const MAX_CACHED_LEASES = 4_096;
/** Connections of a client, or of a chunkserver, to chunkservers, and the idle time after which one is closed. */
export const MAX_CHUNKSERVER_PEERS = 256;
export const CHUNKSERVER_PEER_IDLE_MS = 60_000;
/**
 * Time that a chunkserver which failed or was slow is asked only when no other has the chunk. It doubles, up to the second,
 * with each failure until the server answers.
 */
export const FAILED_SERVER_MEMORY_MS = 3_000;
export const FAILED_SERVER_MEMORY_MAX_MS = 60_000;
/** A client tells the master of a bad replica again after so long, and remembers so many that it told of. */
export const REPLICA_REPORT_INTERVAL_MS = 10_000;
export const MAX_REMEMBERED_REPLICA_REPORTS = 1024;
/** Time without an answer after which a read is also sent to the next replica; and of a server that failed when asked last. */
export const READ_HEDGE_MS = 1_500;
export const READ_HEDGE_FAILED_MS = 200;
/** A chunk that could not be read in time gets only a last attempt for so long, and so many are remembered. */
export const UNREAD_CHUNK_MEMORY_MS = 2_000;
export const MAX_UNREAD_CHUNKS = 1024;
/** Time for a client to connect to a chunkserver: one that is gone must cost less than an operation has. */
export const CHUNKSERVER_CONNECT_MS = 3_000;
/** Time for one question who leads the writing of a chunk: long enough for a recovery, and repeated. */
export const LEASE_QUESTION_MS = 20_000;
/** Time for a server to tell where the holes of a chunk are; without an answer all of it counts as data. */
export const BLOCK_MAP_TIMEOUT_MS = 3_000;
/** Time that an attempt gets although that of its operation is nearly over. */
export const LAST_ATTEMPT_MS = 1_000;
/** Bytes read ahead of one open file, and of all: eight requests in flight, and memory for eight such streams. */
export const MAX_READAHEAD_BYTES = 8 * MIB;
export const MAX_TOTAL_READAHEAD_BYTES = 64 * MIB;
/** Buffered bytes that are not yet on the chunkservers: of one file, and of a client. Then writers wait. */
export const MAX_DIRTY_BYTES = 24 * MIB;
export const MAX_TOTAL_DIRTY_BYTES = 64 * MIB;
/** Writes of one file in flight: many, for small ones; their bytes leave room for other files on the connection. */
export const MAX_WRITES_IN_FLIGHT = 64;
export const MAX_WRITE_BYTES_IN_FLIGHT = 12 * MIB;
/**
 * Writes of one message, each of at most so many bytes: what a message costs is shared by many, and one that fails makes few of
 * them go again.
 */
export const MAX_BATCH_WRITES = 64;
export const MAX_BATCHED_WRITE_BYTES = 16 * KIB;
/** Age at which buffered bytes are written back without being asked to. */
export const WRITE_BACK_AGE_MS = 1_000;

// ---- Chunkservers -------------------------------------------------------------------------------

/** Writes of at most this go to the page cache at once; the thread pool costs more than copying so little. */
export const SMALL_WRITE_BYTES = 32 * KIB;
/**
 * Writes of at least this, in a chunk that has DIRECT_AFTER_BYTES before them, go to the disk past the page cache: whoever
 * streams does not read it back at once, and a page cache costs more CPU than the disk. Smaller files stay in the cache.
 */
export const DIRECT_WRITE_BYTES = 256 * KIB;
export const DIRECT_AFTER_BYTES = 2 * MIB;
/** Unsynced bytes of a chunk at which its server sends them to the disk without being asked: a disk's work of 100 ms. */
export const SYNC_BEHIND_BYTES = 16 * MIB;
/** Chunk files that a chunkserver keeps open, each with 4 KiB of checksums; within the usual 1024 descriptors. */
export const MAX_OPEN_CHUNK_FILES = 512;
/** Mutations of one chunk that wait at a secondary for an earlier serial, which came late. */
export const MAX_WAITING_SERIALS = 256;
/**
 * Copies that a chunkserver pulls at once, and that wait: small ones wait for syncs, so several; for large ones the
 * master bounds the bytes.
 */
export const MAX_CHUNK_COPIES = 8;
export const MAX_WAITING_COPIES = 64;
/** Replicas that a chunkserver reads whole at once to verify them, those that wait, and the pause after each MiB: some 100 MB/s each. */
export const MAX_VERIFICATIONS = 2;
export const MAX_WAITING_VERIFICATIONS = 256;
export const VERIFY_PAUSE_MS = 5;
/** Messages in flight to one peer while blocks are copied or repaired. */
export const COPY_WINDOW = 4;
/** Bytes that one request copies from chunk to chunk, and the time after which it begins no further piece. */
export const MAX_COPY_RANGE_BYTES = 16 * MIB;
export const COPY_RANGE_MS = 2_000;
/** Such requests that a chunkserver works on at once, COPY_WINDOW pieces read and as many being written, and that wait. */
export const MAX_RANGE_COPIES = 4;
export const MAX_WAITING_RANGE_COPIES = 64;
/** Time for one piece from another chunkserver, before the next one that has it is asked. */
export const COPY_READ_TIMEOUT_MS = 2_000;
/** Time that a client waits for such a request: its work, and a failure in the chain at its end. */
export const COPY_RANGE_TIMEOUT_MS = 20_000;
/** Bytes of a copy below which the client does it by itself: as many round trips, and the bytes are written behind. */
export const MIN_DIRECT_COPY_BYTES = 256 * KIB;
/** Time for each server of the chain to apply a mutation: two of them fit into an attempt of the client. */
export const FORWARD_TIMEOUT_MS = 4_000;
/** A replica without mutations for so long is synced and marked clean, so that a power loss casts no doubt on it. */
export const CLEAN_AFTER_IDLE_MS = 30_000;
/** Time that a stopping chunkserver spends on that; what stays dirty is only suspected later, without need. */
export const CLEAN_STOP_MS = 5_000;
/** Each data directory is written to, synced and read so often, so that a disk which fails is noticed when nobody uses it. */
export const DISK_PROBE_INTERVAL_MS = 10_000;
/**
 * A data directory of which a call has been out for so long does not answer: longer than an fsync takes that waits behind others, as
 * long as a chunkserver may be silent. After so long more its replicas are made anew elsewhere. Ages are looked at so often.
 */
export const DISK_STALLED_MS = 8_000;
export const DISK_ABSENT_MS = 30_000;
export const DISK_WATCH_INTERVAL_MS = 1_000;
/** A data directory goes out of service when so many of its replicas met an error of the disk within this time. */
export const MAX_BAD_REPLICAS = 8;
export const BAD_REPLICAS_WINDOW_MS = 600_000;
/** A data directory that is written to counts its generations so often at most: one small file synced. */
export const GENERATION_INTERVAL_MS = 10_000;
/** Data directories of one chunkserver: a number of one is a byte in the index of its replicas. */
export const MAX_DATA_DIRECTORIES = 255;
/** Free bytes below which a data directory gets no new chunks while another has more. */
export const LOW_SPACE_BYTES = 256 * MIB;
/** Time after its last use when a chunkserver forgets what it knew about a chunk's lease. */
export const FORGET_REPLICA_AFTER_MS = 2 * LEASE_TTL_MS;
/** Pause between attempts of a chunkserver to reach the master: doubled from the first to the last. */
export const MASTER_RETRY_MIN_MS = 100;
export const MASTER_RETRY_MAX_MS = 2_000;
/** Subdirectories of a data directory that chunk files are spread over. */
export const CHUNK_DIRECTORY_FANOUT = 256;

// ---- Relations ----------------------------------------------------------------------------------

assert.equal(CHUNK_SIZE_BYTES % BLOCK_SIZE_BYTES, 0);
assert.equal(MAX_PAYLOAD_BYTES % BLOCK_SIZE_BYTES, 0);
assert.ok(COPY_RANGE_MS + 2 * FORWARD_TIMEOUT_MS < COPY_RANGE_TIMEOUT_MS, 'a copy that fails late must be answered');
assert.ok(CHUNKSERVER_FENCE_MS < CHUNKSERVER_DEAD_MS, 'a server must fence itself before it is replaced');
assert.ok(HEARTBEAT_INTERVAL_MS * 3 < CHUNKSERVER_FENCE_MS, 'two lost heartbeats must not fence a server');
assert.ok(HEARTBEAT_INTERVAL_MS * 3 < MAX_MASTER_LAG_MS, 'two lost heartbeats must not keep readers away');
assert.ok(MAX_MASTER_LAG_MS + HEARTBEAT_INTERVAL_MS < CHUNKSERVER_DEAD_MS, 'readers must know before it is replaced');
assert.ok(HEARTBEAT_INTERVAL_MS * 3 < HOLDING_VALID_MS, 'two lost heartbeats must not void what a client holds');
assert.ok(
  HOLDING_VALID_MS * 1.2 < HOLDING_TAKEOVER_MS,
  'a client must stop to believe before others change what it holds',
);
assert.ok(SPARE_AGE_MS < LEASE_TTL_MS / 2, 'a spare chunk must be handed out with a fresh lease');
assert.ok(MAX_IN_FLIGHT_BYTES >= MAX_PAYLOAD_BYTES);
assert.ok(MAX_SEND_QUEUE_BYTES <= MAX_UNREAD_BYTES && 2 * MAX_IN_FLIGHT_BYTES <= MAX_SERVED_BYTES);
assert.ok(MAX_XATTR_VALUE_BYTES + 4 * KIB < MAX_HEADER_BYTES);
assert.ok(2 * MAX_OVERLAY_CHANGES < LOST_INODES_BOUND, 'an inode number must not come again after a power loss');
assert.ok(Number.isSafeInteger(COUNTER_JUMP * 4096));
assert.ok(COMMIT_CHANGES < MAX_OVERLAY_CHANGES, 'commits must begin before mutations wait for them');
assert.ok(MAX_BATCH_WRITES * MAX_BATCHED_WRITE_BYTES <= MAX_PAYLOAD_BYTES, 'a batch must fit into a message');
assert.ok(MAX_DIRTY_BYTES >= 2 * MAX_PAYLOAD_BYTES && MAX_DIRTY_BYTES <= MAX_TOTAL_DIRTY_BYTES);
assert.ok(2 * LOCK_POLL_MS < REQUEST_TIMEOUT_MS);
assert.ok(MAX_WRITE_BYTES_IN_FLIGHT < MAX_IN_FLIGHT_BYTES, 'one file must not fill a connection');
assert.ok(MAX_LOCKS_PER_FILE < MAX_LOCKS_PER_SESSION);
