/** `cairn master`: the cluster's one master, in the foreground. */
import { join, resolve } from 'node:path';
import { MAX_REPLICAS } from '../../core/limits.js';
import { UsageError } from '../command.js';
import type { Command } from '../command.js';
import { LOG_LEVEL_OPTION, makeLogger, makeMaster } from '../compose.js';
import { DEFAULT_MASTER_PORT } from '../machine/paths.js';
import { isCopyOfRunning, markRunning, markStopped } from '../machine/copied-directory.js';
import { makeDirectories, makePrivate } from '../machine/make-directories.js';
import { readOrCreateSecret } from '../machine/secret.js';
import { runService } from '../machine/service.js';

export const masterCommand: Command = {
  name: 'master',
  summary: 'run a master in the foreground, until SIGTERM or SIGINT',
  arguments: [],
  options: [
    { flags: '--data <dir>', description: 'its directory: the namespace, the operation log, its pid' },
    { flags: '--listen <host:port>', description: `where to listen (default: 127.0.0.1:${DEFAULT_MASTER_PORT})` },
    {
      flags: '--secret <file>',
      description: "file with the cluster's secret, made when missing (default: DIR/secret)",
    },
    { flags: '--replicas <n>', description: 'chunkservers that keep each chunk (default: 2)' },
    { flags: '--min-replicas <n>', description: 'with fewer than these alive a chunk cannot be written (default: 1)' },
    LOG_LEVEL_OPTION,
  ],
  examples: ['cairn master --data /srv/cairn/master --listen 10.0.0.1:9420 --secret /etc/cairn.secret'],
  async run(_args, options) {
    const directory = resolve(options.required('data'));
    const wantedReplicas = options.whole('replicas', { min: 1, max: MAX_REPLICAS }) ?? 2;
    const minReplicas = options.whole('minReplicas', { min: 1, max: MAX_REPLICAS }) ?? 1;
    if (minReplicas > wantedReplicas) throw new UsageError('--min-replicas cannot be more than --replicas');
    const listen = options.address('listen') ?? `127.0.0.1:${DEFAULT_MASTER_PORT}`;
    const logger = makeLogger('master', options, directory);
    // Names, xattrs and links of everybody are in the store: it is for this user alone, as all that is made from here on.
    process.umask(0o077);
    await makeDirectories(directory);
    await makePrivate(directory);
    return runService(directory, logger, async () => {
      const secret = await readOrCreateSecret(options.text('secret') ?? join(directory, 'secret'));
      const storePath = join(directory, 'store');
      const storeFile = join(storePath, 'data.mdb');
      const isDoubtful = await isCopyOfRunning(directory, storeFile);
      if (isDoubtful) {
        logger.warn(
          { directory },
          'this directory was copied while its master ran, or after it was killed: all of the metadata is looked through ' +
            'now. If that fails, or ends this process, take a copy while the master is stopped',
        );
      }
      const { master, store } = await makeMaster(logger, {
        listen,
        secret,
        storePath,
        checksState: isDoubtful,
        logDirectory: join(directory, 'oplog'),
        wantedReplicas,
        minReplicas,
      });
      return {
        start: async () => {
          const { address } = await master.start();
          await markRunning(directory, storeFile);
          return address;
        },
        failed: master.failed,
        stop: async () => {
          await master.stop();
          await store.close();
          await markStopped(directory);
        },
      };
    });
  },
};
