/** Changes of names and attributes, one after another, and what the tree is after each. */
import assert from 'node:assert/strict';
import { ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { OpenFile } from '../../../src/filesystem/filesystem.js';
import { READ_WRITE, root } from '../world/story.js';
import { StruckMessage } from '../faults/struck-message.js';
import type { Strike } from '../faults/struck-message.js';
import { World } from '../world/world.js';

const bytes = (text: string): Buffer => Buffer.from(text);
const XATTR = bytes('user.x');

class Changes {
  private directory = ROOT_INODE;
  private inode = ROOT_INODE;
  private readonly opened: OpenFile[] = [];

  constructor(private readonly fs: ClusterFileSystem) {}

  private in(name: string): { readonly parent: InodeId; readonly name: Buffer } {
    return { parent: this.directory, name: bytes(name) };
  }

  private at(name: string): { readonly parent: InodeId; readonly name: Buffer } {
    return { parent: ROOT_INODE, name: bytes(name) };
  }

  *all(): Generator<() => Promise<unknown>> {
    const { fs } = this;
    const directory = { kind: 'directory', mode: 0o755 } as const;
    const options = { mode: 0o644, flags: READ_WRITE, exclusive: true };
    yield async () => (this.directory = (await fs.makeNode(root, ROOT_INODE, bytes('d'), directory)).inode);
    yield async () => {
      const { file, created } = await fs.create(root, this.directory, bytes('f'), options);
      assert.ok(created);
      this.inode = file.inode;
      this.opened.push(file);
    };
    yield async () => {
      await this.opened[0]?.write(0, bytes('0123456789'));
      await this.opened[0]?.sync();
    };
    yield () => fs.link(root, this.inode, this.directory, bytes('g'));
    yield () => fs.rename(root, this.in('f'), this.in('h'));
    yield () => fs.symlink(root, this.directory, bytes('s'), bytes('target'));
    yield () => fs.setXattr(root, this.inode, XATTR, bytes('1'), { create: true });
    yield () => fs.setXattr(root, this.inode, XATTR, bytes('2'), { replace: true });
    yield () => fs.setAttributes(root, this.inode, { mode: 0o600 });
    yield () => fs.setAttributes(root, this.inode, { size: 5 });
    yield () => fs.makeNode(root, ROOT_INODE, bytes('e'), directory);
    yield () => fs.rename(root, this.in('h'), this.at('h'), { noReplace: true });
    yield () => fs.rename(root, this.in('g'), this.at('e'), { exchange: true });
    yield () => fs.removeXattr(root, this.inode, XATTR);
    yield async () => {
      const { file } = await fs.createTemporary(root, this.directory, { mode: 0o644, flags: READ_WRITE });
      this.opened.push(file);
    };
    yield () => fs.link(root, this.opened[1]?.inode ?? ROOT_INODE, this.directory, bytes('t'));
    yield () => fs.rename(root, this.in('t'), this.at('h'));
    yield () => fs.unlink(root, ROOT_INODE, bytes('e'));
    yield async () => assert.equal((await this.opened[0]?.read(0, 100))?.toString(), '01234', 'without a name');
    yield () => fs.removeDirectory(root, this.directory, bytes('g'));
    yield () => Promise.all(this.opened.map((file) => file.close()));
    yield () => fs.unlink(root, this.directory, bytes('s'));
    yield () => fs.removeDirectory(root, ROOT_INODE, bytes('d'));
  }
}

/** The tree, in one line. */
async function treeOf(fs: ClusterFileSystem, directory: InodeId = ROOT_INODE): Promise<string> {
  const { entries } = await fs.readDirectory(root, directory, 0);
  const lines = entries.map(async ({ name, inode, kind }) => {
    const { nlink, mode, size } = await fs.getAttributes(inode);
    const xattrs = await Promise.all((await fs.listXattrs(root, inode)).map((key) => fs.getXattr(root, inode, key)));
    const inside = kind === 'directory' ? await treeOf(fs, inode) : kind === 'file' ? `${size}` : '';
    return `${name.toString()} ${mode.toString(8)} ${nlink} [${xattrs.join()}] (${inside})`;
  });
  return (await Promise.all(lines)).sort().join('; ');
}

/** P6: every change succeeds, once. Returns how many messages there were; each tree is told to `onTree`. */
export async function changeNames(
  seed: number,
  message: number,
  strike: Strike,
  onTree: (at: number, tree: string) => void,
): Promise<number> {
  const world = new World({ seed });
  const messages = new StruckMessage(world);
  try {
    await world.run(async () => {
      await world.startAll();
      const [one, two] = [await world.connect('client-1'), await world.connect('client-2')];
      messages.begin(message, strike);
      let at = 0;
      for (const change of new Changes(one).all()) {
        await change();
        messages.note(`change ${at}`);
        onTree(at++, await treeOf(one));
      }
      messages.end();
      await world.sleep(15_000);
      onTree(at - 1, await treeOf(two));
    });
    return messages.count;
  } catch (error) {
    const what = error instanceof Error ? error.message : String(error);
    const about = `seed ${seed}, ${JSON.stringify(strike)} at message ${message}`;
    throw new Error(`${about}: ${what}\n${messages.events.join('\n')}`, { cause: error });
  } finally {
    world.stop();
  }
}
