/** File arguments: 'cairn:/path' is a path of the cluster, anything else is of this machine. */
import { resolve } from 'node:path';
import type { Credentials, FileSystem } from '../../filesystem/filesystem.js';
import type { Source } from './copy.js';
import { UsageError } from '../command.js';
import { LocalTree } from './local-tree.js';
import { RemoteTree } from './remote-tree.js';

const PREFIX = 'cairn:';

export const isRemote = (argument: string): boolean => argument.startsWith(PREFIX);

/** A path of the cluster, with or without the prefix. */
export function remotePath(argument: string): Buffer {
  const path = isRemote(argument) ? argument.slice(PREFIX.length) : argument;
  if (!path.startsWith('/')) throw new UsageError(`a path of the cluster begins with '/': cairn:/${path}`);
  return Buffer.from(path);
}

export function remoteTree(fileSystem: FileSystem): RemoteTree {
  return new RemoteTree(fileSystem, callerCredentials());
}

export function remoteSource(argument: string, fileSystem: FileSystem): Source {
  return { tree: remoteTree(fileSystem), path: remotePath(argument) };
}

export function localSource(argument: string): Source {
  const asDirectory = argument.endsWith('/') && resolve(argument) !== '/' ? '/' : '';
  return { tree: new LocalTree(), path: Buffer.from(resolve(argument) + asDirectory) };
}

export function callerCredentials(): Credentials {
  return { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, groups: process.getgroups?.() ?? [] };
}
