/** What stories have in common: a cluster, two clients, files by name in the root. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { LEASE_TTL_MS } from '../../../src/core/limits.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { ChunkPlacement, OpenFile } from '../../../src/filesystem/filesystem.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import { equalBytes } from '../../conformance/case.js';
import { checkReplicas } from '../judges/final-check.js';
import { seeds } from './seeds.js';
import { World } from './world.js';
import type { WorldOptions } from './world.js';

export const root = ROOT_CREDENTIALS;
export const READ_WRITE = { read: true, write: true };

export class Story {
  constructor(
    readonly world: World,
    readonly one: ClusterFileSystem,
    readonly two: ClusterFileSystem,
  ) {}

  async create(text: string, content?: Uint8Array, fs = this.one): Promise<OpenFile> {
    const options = { mode: 0o644, flags: READ_WRITE };
    const { file } = await fs.create(root, ROOT_INODE, Buffer.from(text), options);
    if (content !== undefined) await file.write(0, content);
    return file;
  }

  /** As `create`, synced, and so long ago that no lease of its chunks is left. */
  async createAtRest(text: string, content: Uint8Array): Promise<OpenFile> {
    const file = await this.create(text, content);
    await file.sync();
    await this.world.sleep(LEASE_TTL_MS + 15_000);
    return file;
  }

  async openAt(text: string, fs = this.one): Promise<OpenFile> {
    return (await fs.openAt(root, ROOT_INODE, Buffer.from(text), READ_WRITE)).file;
  }

  /** The first chunk of a file: who holds it. */
  async chunk(file: OpenFile): Promise<ChunkPlacement> {
    const [first] = await this.one.placement(file.inode, 0);
    return first ?? assert.fail('the file has no chunk');
  }

  async holders(file: OpenFile): Promise<string[]> {
    return (await this.chunk(file)).replicas.map((replica) => replica.address.split(':')[0] ?? '').sort();
  }

  /** At rest: the content as a fresh open of the second client sees it, and P4 and P9 of its replicas. */
  async check(text: string, content: Uint8Array): Promise<void> {
    const file = await this.openAt(text, this.two);
    equalBytes(await file.read(0, content.length + 1), content, text);
    await checkReplicas(this.world, this.two, [{ path: text, inode: file.inode, size: content.length }]);
    await file.close();
  }
}

export function story(
  title: string,
  tell: (story: Story) => Promise<void>,
  options: Omit<WorldOptions, 'seed'> = {},
): void {
  t.test(title, async () => {
    for (const seed of seeds(3, 501)) {
      const world = new World({ ...options, seed });
      await world.runReported(async () => {
        await world.startAll();
        await tell(new Story(world, await world.connect('client-1'), await world.connect('client-2')));
      });
      world.stop();
    }
  });
}
