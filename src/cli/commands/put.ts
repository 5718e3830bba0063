/** `cairn put`: copies from this machine into the cluster. */
import { clientCluster, CLIENT_OPTIONS } from '../cluster-address.js';
import type { Command } from '../command.js';
import { withCluster } from '../compose.js';
import { copyAndReport } from '../trees/copy.js';
import { localSource, remotePath, remoteSource } from '../trees/locations.js';

export const putCommand: Command = {
  name: 'put',
  summary: 'copy a file or directory of this machine into the cluster',
  arguments: [
    { syntax: '<local>', description: 'a file, or a directory with -r' },
    { syntax: '<path>', description: 'a directory of the cluster to copy into, or the name of the copy' },
  ],
  options: [{ flags: '-r, --recursive', description: 'copy directories with all that is in them' }, ...CLIENT_OPTIONS],
  examples: ['cairn put backup.tar /backups/', 'cairn put -r site /www'],
  async run([local = '', path = ''], options) {
    remotePath(path);
    return withCluster(await clientCluster(options), (fileSystem) =>
      copyAndReport('put', [localSource(local)], remoteSource(path, fileSystem), options.flag('recursive')),
    );
  },
};
