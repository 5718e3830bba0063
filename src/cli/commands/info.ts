/** `cairn info`: where a file is: its inode, chunks, their versions and replicas. */
import { join, relative } from 'node:path';
import type { Attributes, ChunkPlacement, FileSystem } from '../../filesystem/filesystem.js';
import { CairnError } from '../../core/errors.js';
import { isRegular } from '../../core/mode.js';
import { enclosingMount } from '../../fuse/mountpoint.js';
import { clientCluster, CLIENT_OPTIONS } from '../cluster-address.js';
import type { ClusterAddress } from '../cluster-address.js';
import { print } from '../command.js';
import type { Command, Options } from '../command.js';
import { withCluster } from '../compose.js';
import { modeText, timeText } from '../format.js';
import { isRemote, remotePath, remoteTree } from '../trees/locations.js';
import { findMount } from '../machine/mount-registry.js';
import { tableText } from '../table.js';

export const infoCommand: Command = {
  name: 'info',
  summary: 'show where a file is: inode, chunks, versions, replicas',
  arguments: [{ syntax: '<file>', description: "a file in a mount; or 'cairn:/path', which needs no mount" }],
  options: [{ flags: '--json', description: 'for programs' }, ...CLIENT_OPTIONS],
  examples: ['cairn info /mnt/cairn/video.mp4', 'cairn info cairn:/video.mp4 --master 10.0.0.1:9420 --secret s'],
  async run([file = ''], options) {
    const { cluster, path } = await locate(file, options);
    await withCluster(cluster, async (fileSystem) => {
      const attributes = await remoteTree(fileSystem).attributes(path);
      if (options.flag('json')) {
        const chunks: ChunkPlacement[] = [];
        for await (const chunk of chunksOf(fileSystem, attributes)) chunks.push(chunk);
        print(JSON.stringify({ path: path.toString(), attributes, chunks }, undefined, 2));
      } else {
        await report(path, attributes, chunksOf(fileSystem, attributes));
      }
    });
    return 0;
  },
};

async function locate(file: string, options: Options): Promise<{ cluster: ClusterAddress; path: Buffer }> {
  if (isRemote(file) || options.text('master') !== undefined || options.text('data') !== undefined) {
    return { path: remotePath(file), cluster: await clientCluster(options) };
  }
  const { mountpoint, path } = await enclosingMount(file);
  const record = await findMount(mountpoint);
  if (record === undefined) {
    throw new CairnError('ENOENT', `it is not known which cluster is on ${mountpoint}: give --master and --secret`);
  }
  return { cluster: record, path: Buffer.from(join('/', record.subdirectory, relative(mountpoint, path))) };
}

async function* chunksOf(fileSystem: FileSystem, attributes: Attributes): AsyncIterable<ChunkPlacement> {
  if (!isRegular(attributes.mode)) return;
  for (let next = 0; ;) {
    const page = await fileSystem.placement(attributes.inode, next);
    yield* page;
    const last = page.at(-1);
    if (last === undefined) return;
    next = last.index + 1;
  }
}

const CHUNKS_PER_TABLE = 64;

async function report(path: Buffer, attributes: Attributes, chunks: AsyncIterable<ChunkPlacement>): Promise<void> {
  const { inode, mode, uid, gid, size, mtime, nlink } = attributes;
  print(`path    ${path.toString()}`);
  print(`inode   ${inode}, ${modeText(mode)}, ${uid}:${gid}, links ${nlink}`);
  print(`size    ${size} bytes, changed ${timeText(mtime)}`);
  let rows: (string | number)[][] = [];
  const flush = (): void => {
    if (rows.length > 0) print(`\n${tableText(['CHUNK', 'HANDLE', 'VERSION', 'REPLICAS'], rows)}`);
    rows = [];
  };
  for await (const { index, handle, version, replicas } of chunks) {
    const places = replicas.map((replica) => `${replica.address} (${replica.serverId})`).join(', ');
    rows.push(handle === 0 ? [index, '-', '-', 'a hole'] : [index, handle, version, places || 'none alive']);
    if (rows.length === CHUNKS_PER_TABLE) flush();
  }
  flush();
}
