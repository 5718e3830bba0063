/** `cairn cat`: files of the cluster on standard output. */
import { once } from 'node:events';
import { CairnError } from '../../core/errors.js';
import { isDirectory } from '../../core/mode.js';
import { clientCluster, CLIENT_OPTIONS } from '../cluster-address.js';
import type { Command } from '../command.js';
import { withCluster } from '../compose.js';
import { remotePath, remoteTree } from '../trees/locations.js';

export const catCommand: Command = {
  name: 'cat',
  summary: 'print files of the cluster',
  arguments: [{ syntax: '<path...>', description: 'files of the cluster' }],
  options: CLIENT_OPTIONS,
  examples: ['cairn cat /docs/readme.txt', 'cairn cat /logs/a /logs/b | grep error'],
  async run(args, options) {
    const paths = args.map(remotePath);
    await withCluster(await clientCluster(options), async (fileSystem) => {
      const tree = remoteTree(fileSystem);
      for (const path of paths) {
        if (isDirectory((await tree.attributes(path)).mode)) {
          throw new CairnError('EISDIR', `${tree.show(path)} is a directory`);
        }
        for await (const bytes of tree.read(path)) {
          if (!process.stdout.write(bytes)) await once(process.stdout, 'drain');
        }
      }
    });
    return 0;
  },
};
