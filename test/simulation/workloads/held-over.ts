/**
 * What a client holds that began after the backup to which the master is put back: a lock, and an append lease. Whoever has them next has
 * them alone (P2), and what he syncs stays (P1), also when the first one is cut off from the master and does not know.
 */
import { ROOT_INODE } from '../../../src/core/ids.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import type { Random } from '../../../src/core/random.js';
import { unawaited } from '../../../src/core/sync.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import type { FileSystem, LockRequest, OpenFile } from '../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../conformance/case.js';
import { READ_WRITE, root } from '../world/story.js';
import { MASTER } from '../world/world.js';
import type { World } from '../world/world.js';

const LOCK: LockRequest = { kind: 'flock', owner: 'held', type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 };
const APPEND = { ...READ_WRITE, append: true };
const BYTES = 5_000;

export class HeldOver {
  private readonly host: string;
  private readonly names: { readonly locked: Buffer; readonly log: Buffer };
  private isOver = false;
  private seed = 10;

  constructor(
    private readonly world: World,
    private readonly random: Random,
  ) {
    const id = random.below(1 << 20);
    this.host = `client-held-${id}`;
    this.names = { locked: Buffer.from(`locked-${id}`), log: Buffer.from(`log-${id}`) };
  }

  /** Before the backup. */
  async make(fs: FileSystem): Promise<void> {
    for (const name of [this.names.locked, this.names.log]) {
      const { file } = await fs.create(root, ROOT_INODE, name, { mode: 0o644, flags: READ_WRITE });
      await file.write(0, pattern(BYTES, 1));
      await file.sync();
      await file.close();
    }
  }

  /** After the backup: a new client takes both, and goes on until it is told. */
  async hold(): Promise<void> {
    const fs = await this.world.connect(this.host);
    const { file } = await fs.openAt(root, ROOT_INODE, this.names.locked, READ_WRITE);
    const { file: log } = await fs.openAt(root, ROOT_INODE, this.names.log, APPEND);
    await fs.setLock(file.inode, LOCK, { wait: true });
    for (const each of [file, log]) unawaited(this.goOn(each), silentLogger, 'writing what is held');
  }

  private async goOn(file: OpenFile): Promise<void> {
    while (!this.isOver) {
      await file.write(0, pattern(BYTES, this.seed++)).catch(() => undefined);
      file.flush().catch(() => undefined);
      await this.world.sleep(500);
    }
  }

  /** The master is about to go. */
  cutOff(): void {
    if (this.random.below(3) > 0) this.world.network.partition(MASTER, this.host);
  }

  /** After the restore: somebody else has them next. */
  async takeOver(fs: FileSystem): Promise<void> {
    const { world, random } = this;
    const { file: log } = await fs.openAt(root, ROOT_INODE, this.names.log, APPEND);
    if (random.below(2) === 0) await log.truncate(0);
    await log.write(0, pattern(BYTES, 2));
    await log.sync();
    const end = (await fs.getAttributes(log.inode)).size;
    const { file } = await fs.openAt(root, ROOT_INODE, this.names.locked, READ_WRITE);
    await fs.setLock(file.inode, LOCK, { wait: true });
    const seen = Buffer.from(await file.read(0, BYTES));
    await world.sleep(random.below(20_000));
    // One that has nothing cached.
    const other = await world.connect(`${this.host}-observer`);
    const look = async (name: Buffer, from: number): Promise<Buffer> => {
      const { file: found } = await other.openAt(root, ROOT_INODE, name, { read: true, write: false });
      return Buffer.from(await found.read(from, BYTES));
    };
    equalBytes(await look(this.names.locked, 0), seen, 'what is under a lock');
    equalBytes(await look(this.names.log, end - BYTES), pattern(BYTES, 2), 'what was appended and synced');
    this.isOver = true;
    world.network.heal(MASTER, this.host);
    for (const each of [file, log]) await each.close();
    await other.close();
  }
}
