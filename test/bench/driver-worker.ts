/**
 * Serves a file system in memory with one driver, until it is unmounted: what a driver itself can do, without a cluster
 * behind it. What is written is dropped and reads as zeros, so that memory is not what is measured. usage: driver-worker.js kernel|fuse-native MOUNTPOINT. Prints a line when it is mounted.
 */
import { ROOT_INODE } from '../../src/core/ids.js';
import { SystemClock } from '../../src/core/clock.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import type { OpenFile } from '../../src/filesystem/filesystem.js';
import type { Driver, DriverOptions } from '../../src/fuse/driver.js';
import { FuseNativeDriver } from '../../src/fuse/native/fuse-native-driver.js';
import { KernelDriver } from '../../src/fuse/kernel/driver.js';
import { serveMount } from '../../src/fuse/mount.js';
import { ModelFileSystem } from '../support/models/model-filesystem.js';

class DroppingFileSystem extends ModelFileSystem {
  override async create(...args: Parameters<ModelFileSystem['create']>): ReturnType<ModelFileSystem['create']> {
    const opened = await super.create(...args);
    return { ...opened, file: dropping(opened.file) };
  }

  override async open(...args: Parameters<ModelFileSystem['open']>): ReturnType<ModelFileSystem['open']> {
    const opened = await super.open(...args);
    return { ...opened, file: dropping(opened.file) };
  }
}

function dropping(file: OpenFile): OpenFile {
  let size = 0;
  const write = async (offset: number, bytes: Uint8Array): Promise<number> => {
    const end = offset + bytes.length;
    if (end > size) await file.truncate((size = end));
    return bytes.length;
  };
  return Object.assign(Object.create(file) as OpenFile, { write });
}

const [name, mountpoint] = process.argv.slice(2);
if (mountpoint === undefined || (name !== 'kernel' && name !== 'fuse-native')) {
  throw new Error('usage: driver-worker.js kernel|fuse-native MOUNTPOINT');
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
