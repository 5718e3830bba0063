/**
 * Replicas that their servers have said to have made, and that the state does not believe in yet: of chunks that are made ahead, and
 * copies that wait for the lock of their chunk. No record says what becomes of them meanwhile, so it is kept here.
 */
import type { ChunkHandle, ServerId } from '../../core/ids.js';

export class MadeReplicas {
  /** Whether each is still there. As many as there are chunks made ahead, and copies. */
  private readonly servers = new Map<ServerId, Map<ChunkHandle, boolean>>();

  /** The server has said so just now. */
  note(handle: ChunkHandle, server: ServerId): void {
    const ofServer = this.servers.get(server) ?? new Map<ChunkHandle, boolean>();
    this.servers.set(server, ofServer.set(handle, true));
  }

  /** The server has said that it does not have these any more, or not whole. */
  lose(server: ServerId, isLost: (handle: ChunkHandle) => boolean): void {
    const ofServer = this.servers.get(server);
    if (ofServer === undefined) return;
    for (const handle of ofServer.keys()) if (isLost(handle)) ofServer.set(handle, false);
  }

  isThere(handle: ChunkHandle, server: ServerId): boolean {
    return this.servers.get(server)?.get(handle) === true;
  }

  /** It becomes a member now, or nobody wants it. Returns whether it is there. */
  take(handle: ChunkHandle, server: ServerId): boolean {
    const isThere = this.isThere(handle, server);
    const ofServer = this.servers.get(server);
    ofServer?.delete(handle);
    if (ofServer?.size === 0) this.servers.delete(server);
    return isThere;
  }
}
