/**
 * The directory of a cluster that `cairn up` runs on one machine:
 *
 *   cluster.json     what it consists of         cluster.secret   the secret, mode 600
 *   master/  chunkserver-1/ …  mount/            one for each process, with its `pid` and `log`
 */
import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import { readJson, writeJson } from './json-file.js';

export interface ClusterDescription {
  /** host:port */
  readonly master: string;
  readonly replicas: number;
  /** host:port of chunkserver 1, 2 …; port 0 until it was started once. */
  readonly chunkservers: readonly string[];
  readonly mountpoint: string;
}

const FORMAT = 1;

export class ClusterDirectory {
  readonly path: string;

  constructor(path: string) {
    this.path = resolve(path);
  }

  get descriptionFile(): string {
    return join(this.path, 'cluster.json');
  }
  get secretFile(): string {
    return join(this.path, 'cluster.secret');
  }
  get master(): string {
    return join(this.path, 'master');
  }
  get mount(): string {
    return join(this.path, 'mount');
  }
  /** `number` counts from 1. */
  chunkserver(number: number): string {
    return join(this.path, `chunkserver-${number}`);
  }

  /** Undefined when no cluster was started here. */
  async describe(): Promise<ClusterDescription | undefined> {
    const value = await readJson(this.descriptionFile);
    if (value === undefined) return undefined;
    const { format, master, replicas, chunkservers, mountpoint } = value;
    if (format !== FORMAT || typeof master !== 'string' || typeof replicas !== 'number' || !isTexts(chunkservers)) {
      throw new CairnError('EINVAL', `${this.descriptionFile} is not of this version of CairnFS`);
    }
    return { master, replicas, chunkservers, mountpoint: typeof mountpoint === 'string' ? mountpoint : '' };
  }

  async write(description: ClusterDescription): Promise<void> {
    await writeJson(this.descriptionFile, { format: FORMAT, ...description });
  }

  /** Names in the directory; none when it does not exist. */
  async names(): Promise<string[]> {
    try {
      return await readdir(this.path);
    } catch (error) {
      if (hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR')) return [];
      throw error;
    }
  }
}

const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((item) => typeof item === 'string');
