/** `cairn ls`: directories of the cluster. Entries come as the directory has them, so that any length fits in memory. */
import type { Attributes } from '../../filesystem/filesystem.js';
import { isDirectory, isSymlink } from '../../core/mode.js';
import { clientCluster, CLIENT_OPTIONS } from '../cluster-address.js';
import { print } from '../command.js';
import type { Command } from '../command.js';
import { withCluster } from '../compose.js';
import { modeText, timeText } from '../format.js';
import { remotePath, remoteTree } from '../trees/locations.js';
import type { RemoteTree } from '../trees/remote-tree.js';
import { baseName, joinPath } from '../trees/tree.js';

export const lsCommand: Command = {
  name: 'ls',
  summary: 'list a directory of the cluster, unsorted',
  arguments: [{ syntax: '[path...]', description: 'directories or files of the cluster (default: /)' }],
  options: [{ flags: '-l, --long', description: 'with mode, owner, size and time' }, ...CLIENT_OPTIONS],
  examples: ['cairn ls', 'cairn ls -l /docs | sort -k7'],
  async run(args, options) {
    const paths = (args.length > 0 ? args : ['/']).map(remotePath);
    const long = options.flag('long');
    await withCluster(await clientCluster(options), async (fileSystem) => {
      const tree = remoteTree(fileSystem);
      for (const [i, path] of paths.entries()) {
        if (paths.length > 1) print(`${i > 0 ? '\n' : ''}${path.toString()}:`);
        await list(tree, path, long);
      }
    });
    return 0;
  },
};

async function list(tree: RemoteTree, path: Buffer, long: boolean): Promise<void> {
  const attributes = await tree.attributes(path);
  if (!isDirectory(attributes.mode)) {
    await printEntry(tree, path, baseName(path), long ? attributes : undefined);
    return;
  }
  for await (const entry of tree.entries(path, long)) {
    await printEntry(tree, joinPath(path, entry.name), entry.name, entry.attributes);
  }
}

async function printEntry(tree: RemoteTree, path: Buffer, name: Buffer, attributes?: Attributes): Promise<void> {
  if (attributes === undefined) {
    print(name.toString());
    return;
  }
  const { mode, nlink, uid, gid, size, mtime } = attributes;
  const arrow = isSymlink(mode) ? ` -> ${(await tree.readLink(path)).toString()}` : '';
  const columns = [modeText(mode), String(nlink).padStart(3), String(uid).padStart(5), String(gid).padStart(5)];
  print([...columns, String(size).padStart(12), timeText(mtime), name.toString() + arrow].join(' '));
}
