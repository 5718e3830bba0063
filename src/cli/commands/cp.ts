/** `cairn cp`: copies between this machine and the cluster, or within the cluster, without a mount. */
import { clientCluster, CLIENT_OPTIONS } from '../cluster-address.js';
import { UsageError } from '../command.js';
import type { Command } from '../command.js';
import { withCluster } from '../compose.js';
import { copyAndReport } from '../trees/copy.js';
import { isRemote, localSource, remotePath, remoteSource } from '../trees/locations.js';

export const cpCommand: Command = {
  name: 'cp',
  summary: "copy files; 'cairn:/path' is a path of the cluster",
  arguments: [{ syntax: '<paths...>', description: 'sources, then the target: a directory to copy into, or a name' }],
  options: [{ flags: '-r, --recursive', description: 'copy directories with all that is in them' }, ...CLIENT_OPTIONS],
  examples: ['cairn cp report.pdf cairn:/docs/', 'cairn cp -r cairn:/docs .', 'cairn cp cairn:/a cairn:/b'],
  async run(args, options) {
    const sources = args.slice(0, -1);
    const target = args.at(-1);
    if (target === undefined || sources.length === 0) throw new UsageError('cp needs a source and a target');
    if (![...sources, target].some(isRemote)) {
      throw new UsageError("none of them is of the cluster: write its paths as 'cairn:/path'");
    }
    for (const argument of [...sources, target]) if (isRemote(argument)) remotePath(argument);
    const cluster = await clientCluster(options);
    return withCluster(cluster, (fileSystem) => {
      const locate = (argument: string) =>
        isRemote(argument) ? remoteSource(argument, fileSystem) : localSource(argument);
      return copyAndReport('cp', sources.map(locate), locate(target), options.flag('recursive'));
    });
  },
};
