/** Bounds of the commands, and of what every process has, that only one part knows: see core/limits.ts. */
import { MIB } from './shared.js';

// core/logging/logger.ts
/** Lines that could not be written are kept up to this, and told once there is space again. */
export const MAX_UNWRITTEN_LOG_BYTES = 1 * MIB;

// cli/commands/up.ts
/** Chunkservers of one machine; each is a process of some 100 MB. */
export const MAX_LOCAL_CHUNKSERVERS = 64;
/** Time for a process to say that it serves, for all servers to register, and for one to end before it is killed. */
export const UP_START_TIMEOUT_MS = 60_000;
export const UP_REGISTERED_TIMEOUT_MS = 60_000;
export const UP_STOP_GRACE_MS = 10_000;

// cli/commands/down.ts
/** After it a process is killed, which loses nothing that was acknowledged. */
export const DOWN_STOP_GRACE_MS = 20_000;
/** Time for the master to say who is there. */
export const DOWN_PROBE_TIMEOUT_MS = 5_000;

// cli/commands/umount.ts
/** Within it a process that is not mounted any more has noticed, unless it has much to flush. */
export const UMOUNT_NOTICE_TIMEOUT_MS = 3000;
/** A process that has much to flush to a slow cluster takes a while. */
export const UMOUNT_FLUSH_TIMEOUT_MS = 120_000;

// cli/commands/mount.ts
/** Time for a mount in the background to be there. */
export const MOUNT_START_TIMEOUT_MS = 30_000;
/** The kernel believes a name for so long, unless told otherwise. */
export const DEFAULT_ENTRY_TIMEOUT_MS = 1_000;
