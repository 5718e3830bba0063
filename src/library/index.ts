/**
 * The library: `connect` to a cluster and use it in the shape of `node:fs/promises`, without a mount.
 *
 *     const cairn = await connect({ master: 'm1:7100', secretFile: '/etc/cairnfs/secret' });
 *     await cairn.writeFile('/notes/today.txt', 'hello');
 *     await cairn.close();
 */
// eslint-disable-next-line @typescript-eslint/no-restricted-imports -- the secret lies on the caller's own disk, before there is a cluster
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { SystemClock } from '../core/clock.js';
import { CairnError, asCairnError } from '../core/errors.js';
import { silentLogger, type Logger } from '../core/logging/logger.js';
import { SystemRandom } from '../core/random.js';
import { WebSocketNetwork } from '../protocol/websocket.js';
import { Cairn } from './cairn.js';
import { ClusterFileSystem } from '../client/cluster-filesystem.js';
import type { ClusterFileSystemConfig } from '../client/connect.js';
import type { Credentials } from '../filesystem/filesystem.js';
import { asCall } from './node-error.js';

export { Cairn, constants, type FileData } from './cairn.js';
export { Dir } from './dir.js';
export { FileHandle } from './file-handle.js';
export type { FileInfo } from './file-info.js';
export type { ReadStreamOptions, WriteStreamOptions } from './file-streams.js';
export type { ChunkPlacement, Credentials } from '../filesystem/filesystem.js';
export { FileSystemError } from './node-error.js';
export type { PathLike } from '../filesystem/paths.js';
export { Dirent, Stats, type StatFs } from './stats.js';
export type { Time } from './times.js';
export type { StatusReply, ServerStatus } from '../protocol/generated/messages.js';

/** Tunables of the client are in ClusterFileSystemConfig: cache time-out, buffers, deadlines. */
export interface ConnectOptions extends Omit<ClusterFileSystemConfig, 'secret' | 'clientName'> {
  /** The cluster's secret: 64 hexadecimal digits, or their 32 bytes. */
  readonly secret?: string | Buffer;
  /** File that holds the 64 digits. One of the two must be given. */
  readonly secretFile?: string;
  /** On whose behalf. Default: user and groups of this process. */
  readonly credentials?: Credentials;
  /** Default: that of this process. */
  readonly umask?: number;
  /** For operators. Default: host and process id. */
  readonly clientName?: string;
  /** Default: silent. */
  readonly logger?: Logger;
}

/**
 * Connects and opens a session. Fails with EACCES when the secret is another, EIO when no master answers in
 * `connectTimeoutMs`, EINVAL when the secret is malformed, ENOENT when its file is missing.
 */
export function connect(options: ConnectOptions): Promise<Cairn> {
  return asCall({ syscall: 'connect', path: options.master }, async () => {
    const { secret: _secret, secretFile: _file, credentials, umask, clientName, logger, ...config } = options;
    const random = new SystemRandom();
    const fileSystem = await ClusterFileSystem.connect(
      { clock: new SystemClock(), random, network: new WebSocketNetwork(), logger: logger ?? silentLogger },
      { ...config, secret: await readSecret(options), clientName: clientName ?? `${hostname()}:${process.pid}` },
    );
    return new Cairn(fileSystem, {
      credentials: credentials ?? processCredentials(),
      umask: umask ?? process.umask(),
      random,
    });
  });
}

async function readSecret({ secret, secretFile }: ConnectOptions): Promise<Buffer> {
  if (Buffer.isBuffer(secret)) return secret;
  let text = secret;
  if (text === undefined) {
    if (secretFile === undefined) throw new CairnError('EINVAL', 'give the secret of the cluster, or its file');
    try {
      text = await readFile(secretFile, 'utf8');
    } catch (error) {
      const { code, message } = asCairnError(error);
      throw new CairnError(code, `the secret cannot be read: ${message}`, { cause: error });
    }
  }
  if (!/^[0-9a-f]{64}$/i.test(text.trim())) throw new CairnError('EINVAL', 'a secret has 64 hexadecimal digits');
  return Buffer.from(text.trim(), 'hex');
}

function processCredentials(): Credentials {
  return {
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
    groups: process.getgroups?.() ?? [],
  };
}
