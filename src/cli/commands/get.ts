/** `cairn get`: copies from the cluster to this machine. */
import { clientCluster, CLIENT_OPTIONS } from '../cluster-address.js';
import type { Command } from '../command.js';
import { withCluster } from '../compose.js';
import { copyAndReport } from '../trees/copy.js';
import { localSource, remotePath, remoteSource } from '../trees/locations.js';

export const getCommand: Command = {
  name: 'get',
  summary: 'copy a file or directory of the cluster to this machine',
  arguments: [
    { syntax: '<path>', description: 'a file of the cluster, or a directory with -r' },
    { syntax: '[local]', description: 'a directory to copy into, or the name of the copy (default: .)' },
  ],
  options: [{ flags: '-r, --recursive', description: 'copy directories with all that is in them' }, ...CLIENT_OPTIONS],
  examples: ['cairn get /backups/backup.tar', 'cairn get -r /www /tmp/www'],
  async run([path = '', local = '.'], options) {
    remotePath(path);
    return withCluster(await clientCluster(options), (fileSystem) =>
      copyAndReport('get', [remoteSource(path, fileSystem)], localSource(local), options.flag('recursive')),
    );
  },
};
