/** Bounds of a chunkserver that only one part of it knows: see core/limits.ts. */
import { MIB } from './shared.js';

// chunkserver/disks/json-files.ts
/** Far above a list of MAX_DATA_DIRECTORIES directories. */
export const MAX_DIRECTORY_JSON_BYTES = 2 * MIB;

// chunkserver/replication/removals.ts
/** Deletions of one request that run at the same time. */
export const MAX_DELETIONS_AT_ONCE = 8;

// chunkserver/store/aside.ts
/** Replicas that one round of `tidy` deletes at most: more than a disk that fills up can need in that time. */
export const MAX_ASIDE_DELETED = 256;

// chunkserver/store/dirty-replicas.ts
/** Replicas that are cleaned at the same time. */
export const MAX_CLEANED_AT_ONCE = 4;

// chunkserver/store/header-scan.ts
/** Files whose headers are read at the same time. */
export const MAX_SCANNED_AT_ONCE = 16;

// chunkserver/chunkserver.ts
/** Time to connect to another chunkserver: a dead one must be noticed within the time for a forward. */
export const PEER_CONNECT_TIMEOUT_MS = 2_000;

// chunkserver/master-link.ts
/** Time for a report of a failure to reach the master before the writer is told anyway. */
export const FAILURE_REPORT_TIMEOUT_MS = 2_000;
