/** Looks at replicas past the client: asks each chunkserver directly. */
import { asCairnError } from '../../../src/core/errors.js';
import type { InodeId } from '../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_PAYLOAD_BYTES } from '../../../src/core/limits.js';
import type { ChunkPlacement, FileSystem } from '../../../src/filesystem/filesystem.js';
import { connectPeer } from '../../../src/protocol/endpoint.js';
import { CHUNKSERVER_METHODS } from '../../../src/protocol/methods.js';
import type { Peer } from '../../../src/protocol/rpc.js';
import type { World } from './world.js';

export interface TreeFile {
  readonly path: string;
  readonly inode: InodeId;
  readonly size: number;
}

/** Where test files have bytes in a chunk. */
const WINDOWS = [0, CHUNK_SIZE_BYTES - MAX_PAYLOAD_BYTES] as const;

export class Inspector {
  private constructor(
    private readonly world: World,
    /** By address. */
    readonly peers: ReadonlyMap<string, Peer>,
  ) {}

  static async connect(world: World): Promise<Inspector> {
    const peers = new Map<string, Peer>();
    const inspector = new Inspector(world, peers);
    const options = { ...world.processDependencies('inspector'), secret: world.secret, role: 'client' } as const;
    try {
      for (const name of world.chunkservers) {
        peers.set(`${name}:7000`, await connectPeer(options, `${name}:7000`, { role: 'chunkserver' }));
      }
    } catch (error) {
      inspector.close();
      throw error;
    }
    return inspector;
  }

  close(): void {
    for (const peer of this.peers.values()) peer.close('done');
  }

  /** All chunks of a file, holes left out. */
  async chunks(fs: FileSystem, file: TreeFile): Promise<ChunkPlacement[]> {
    const chunks: ChunkPlacement[] = [];
    for (let index = 0; index * CHUNK_SIZE_BYTES < file.size;) {
      const page = await fs.placement(file.inode, index);
      if (page.length === 0) break;
      chunks.push(...page.filter((chunk) => chunk.handle !== 0));
      index += page.length;
    }
    return chunks;
  }

  /** Chunks that have too few members or too many, and members that do not have the chunk as the master believes. */
  async missingReplicas(fs: FileSystem, files: readonly TreeFile[]): Promise<string[]> {
    const wrong: string[] = [];
    for (const file of files) {
      for (const chunk of await this.chunks(fs, file)) {
        const what = `chunk ${chunk.handle} (version ${chunk.version}) of ${file.path}`;
        const count = chunk.replicas.length;
        if (count !== this.world.wantedReplicas) wrong.push(`${what} has ${count} members`);
        for (const { address } of chunk.replicas) {
          const answer = await this.read(address, chunk);
          if (typeof answer === 'string') wrong.push(`${address} does not serve ${what}: ${answer}`);
        }
      }
    }
    return wrong;
  }

  /** The windows of a chunk in which test files have bytes, as the server has them; or the error code it says. */
  async read(address: string, chunk: ChunkPlacement): Promise<Buffer[] | string> {
    const peer = this.peers.get(address);
    if (peer === undefined) return `no server ${address}`;
    const content: Buffer[] = [];
    for (const offset of WINDOWS) {
      try {
        const request = { handle: chunk.handle, version: chunk.version, offset, length: MAX_PAYLOAD_BYTES };
        const { payload } = await peer.call(CHUNKSERVER_METHODS.readChunk, request);
        content.push(Buffer.from(payload));
      } catch (error) {
        return asCairnError(error).code;
      }
    }
    return content;
  }
}
