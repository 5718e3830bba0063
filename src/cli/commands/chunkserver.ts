/** `cairn chunkserver`: one chunkserver, in the foreground. */
import { join, resolve } from 'node:path';
import { asCairnError } from '../../core/errors.js';
import { UsageError } from '../command.js';
import type { Command } from '../command.js';
import { LOG_LEVEL_OPTION, makeChunkserver, makeLogger } from '../compose.js';
import { tuneForStreaming } from '../machine/garbage-collection.js';
import { makeDiskPrivate, makePrivate } from '../machine/make-directories.js';
import { readSecret } from '../machine/secret.js';
import { runService } from '../machine/service.js';

export const chunkserverCommand: Command = {
  name: 'chunkserver',
  summary: 'run a chunkserver in the foreground, until SIGTERM or SIGINT',
  arguments: [],
  options: [
    {
      flags: '--data <dir>',
      description: 'its directory, for its pid; chunks go to DIR/chunks unless --disk is given',
    },
    { flags: '--disk <dir>', description: 'a directory for chunks, one a disk; may be repeated', repeatable: true },
    {
      flags: '--forget-disk <id>',
      description:
        'a disk of this chunkserver that is gone for good, with what it held; the log says its id; may be repeated',
      repeatable: true,
    },
    { flags: '--master <host:port>', description: 'where the master is' },
    { flags: '--secret <file>', description: "file with the cluster's secret, a copy of the master's" },
    { flags: '--listen <host:port>', description: 'where to listen (default: 127.0.0.1:0, any free port)' },
    { flags: '--advertise <host:port>', description: 'where others reach it (default: where it listens)' },
    LOG_LEVEL_OPTION,
  ],
  examples: [
    'cairn chunkserver --data /srv/cairn --master 10.0.0.1:9420 --listen 10.0.0.2:9421 --secret /etc/cairn.secret',
    'cairn chunkserver --data /srv/cairn --disk /disk1/cairn --disk /disk2/cairn --master … --secret …',
  ],
  async run(_args, options) {
    tuneForStreaming();
    const directory = resolve(options.required('data'));
    const master = options.address('master');
    if (master === undefined) throw new UsageError('--master is missing');
    const secretFile = options.required('secret');
    const listen = options.address('listen') ?? '127.0.0.1:0';
    const advertise = options.address('advertise');
    const disks = options.texts('disk').map((path) => resolve(path));
    const logger = makeLogger('chunkserver', options, directory);
    const dataDirectories = disks.length > 0 ? disks : [join(directory, 'chunks')];
    return runService(directory, logger, async () => {
      await makePrivate(directory);
      for (const path of dataDirectories) {
        // One that fails, or is not there yet, is the chunkserver's to make or to tell of.
        await makeDiskPrivate(path).catch((error: unknown) => {
          logger.debug(
            { directory: path, reason: asCairnError(error).message },
            'data directory keeps its permissions',
          );
        });
      }
      const chunkserver = await makeChunkserver(logger, {
        listen,
        ...(advertise === undefined ? {} : { advertise }),
        master,
        secret: await readSecret(secretFile),
        dataDirectories,
        forgetDisks: options.texts('forgetDisk'),
      });
      return { start: async () => (await chunkserver.start()).address, stop: () => chunkserver.stop() };
    });
  },
};
