/** The small JSON files in a data directory. Each is replaced as a whole, durably, so that a crash leaves the old or the new one. */
import type { Disk } from '../../core/disk/disk.js';
import { CairnError, hasCode } from '../../core/errors.js';
import { MAX_DIRECTORY_JSON_BYTES } from '../../core/limits.js';
import { Semaphore } from '../../core/sync.js';

export class JsonFiles {
  /** Each is written by one at a time: a disk that hangs lets a later write begin before the earlier one has ended. */
  private readonly turns = new Map<string, Semaphore>();

  constructor(
    private readonly disk: Disk,
    /** Of the data directory. */
    private readonly path: string,
  ) {}

  /** undefined when there is none. */
  async read(name: string): Promise<Record<string, unknown> | undefined> {
    const path = `${this.path}/${name}`;
    let file;
    try {
      file = await this.disk.open(`directory.${name}`, path, 'existing');
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined;
      throw error;
    }
    try {
      const size = await file.size(`directory.${name}`);
      if (size > MAX_DIRECTORY_JSON_BYTES) throw new SyntaxError('too long');
      const bytes = Buffer.alloc(size);
      const count = await file.read(`directory.${name}`, bytes, 0);
      const value: unknown = JSON.parse(bytes.toString('utf8', 0, count));
      if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
      throw new SyntaxError('not an object');
    } catch (error) {
      if (error instanceof SyntaxError) throw new CairnError('EINVAL', `${path} is not readable: ${error.message}`);
      throw error;
    } finally {
      await file.close();
    }
  }

  async write(name: string, value: object): Promise<void> {
    let turn = this.turns.get(name);
    if (turn === undefined) this.turns.set(name, (turn = new Semaphore(1)));
    const release = await turn.acquire();
    try {
      await this.replace(name, value);
    } finally {
      release();
    }
  }

  private async replace(name: string, value: object): Promise<void> {
    const path = `${this.path}/${name}`;
    const file = await this.disk.open(`directory.${name}`, `${path}.new`, 'create');
    try {
      await file.truncate(`directory.${name}`, 0);
      await file.write(`directory.${name}`, Buffer.from(JSON.stringify(value) + '\n'), 0);
      await file.datasync(`directory.${name}`);
    } finally {
      await file.close();
    }
    await this.disk.rename(`directory.${name}`, `${path}.new`, path);
    await this.disk.syncDirectory(`directory.${name}`, this.path);
  }
}
