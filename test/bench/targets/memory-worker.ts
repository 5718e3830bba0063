/**
 * Serves a file system in memory with one driver, until it is unmounted: what a driver itself can do, without a cluster
 * behind it. The bytes of the large file are dropped and read as zeros, so that the memory for them is not what is
 * measured; everything else is kept. usage: memory-worker.js kernel|fuse-native MOUNTPOINT. Prints a line when it is mounted.
 */
import { ROOT_INODE, type InodeId } from '../../../src/core/ids.js';
import { SystemClock } from '../../../src/core/clock.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { OpenFile } from '../../../src/filesystem/filesystem.js';
import type { Driver, DriverOptions } from '../../../src/fuse/driver.js';
import { FuseNativeDriver } from '../../../src/fuse/native/fuse-native-driver.js';
import { KernelDriver } from '../../../src/fuse/kernel/driver.js';
import { serveMount } from '../../../src/fuse/mount.js';
import { LARGE_FILE } from '../rows/large-file.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';

class DroppingFileSystem extends ModelFileSystem {
  /** The large file of each round, by inode. */
  private readonly large = new Set<InodeId>();

  override async create(...args: Parameters<ModelFileSystem['create']>): ReturnType<ModelFileSystem['create']> {
    const opened = await super.create(...args);
    if (args[2].toString() === LARGE_FILE) this.large.add(opened.attributes.inode);
    return { ...opened, file: this.dropping(opened.file) };
  }

  override async open(...args: Parameters<ModelFileSystem['open']>): ReturnType<ModelFileSystem['open']> {
    const opened = await super.open(...args);
    return { ...opened, file: this.dropping(opened.file) };
  }

  private dropping(file: OpenFile): OpenFile {
    if (!this.large.has(file.inode)) return file;
    const write = async (offset: number, bytes: Uint8Array): Promise<number> => {
      const end = offset + bytes.length;
      if (end > (await file.attributes()).size) await file.truncate(end);
      return bytes.length;
    };
    return Object.assign(Object.create(file) as OpenFile, { write });
  }
}

const [name, mountpoint] = process.argv.slice(2);
if (mountpoint === undefined || (name !== 'kernel' && name !== 'fuse-native')) {
  throw new Error('usage: memory-worker.js kernel|fuse-native MOUNTPOINT');
}
const fileSystem = new DroppingFileSystem();
const options: DriverOptions = {
  ...{ source: 'nothing', mountpoint, fileSystem, root: ROOT_INODE, flags: [] },
  ...{ credentials: ROOT_CREDENTIALS, allowOther: false, kernelChecks: true },
  ...{ attributeTimeoutMs: undefined, entryTimeoutMs: 1000, clock: new SystemClock(), logger: silentLogger },
};
const driver: Driver = name === 'kernel' ? new KernelDriver(options) : new FuseNativeDriver(options);
await serveMount(driver, mountpoint, {
  fileSystem,
  logger: silentLogger,
  onReady: () => process.stdout.write('mounted\n'),
  onSignal: (listener) => void process.on('SIGTERM', () => listener('SIGTERM')),
});
process.exit(0);
