/**
 * The descriptor through which the kernel sends requests of one mount and takes replies: /dev/fuse, or what a test puts
 * in its place.
 */
import { spawn } from 'node:child_process';
import { close, open, read, writev, writevSync } from 'node:fs';
import { promisify } from 'node:util';
import { CairnError } from '../../../core/errors.js';
import { MOUNT_TYPE } from '../../mountpoint.js';

export interface FuseDevice {
  /**
   * Waits for one request and puts it into `into`, which must have room for the largest. Rejects with the system's error:
   * ENODEV when the mount is gone for good; ENOENT, EINTR and EAGAIN when it should be asked again.
   */
  read(into: Buffer): Promise<number>;
  /** Sends one message, whole, before it returns. ENOENT: nobody waits for this reply any more. */
  send(parts: readonly Uint8Array[]): void;
  /**
   * As `send`, in a thread of its own: for what may wait in the kernel until requests are answered, which only the
   * caller's thread does.
   */
  sendInThread(parts: readonly Uint8Array[]): Promise<void>;
  close(): void;
}

/** /dev/fuse as long as it is not mounted: no request comes, and a read fails with EPERM. */
export class KernelDevice implements FuseDevice {
  private constructor(private readonly fd: number) {}

  static async open(): Promise<KernelDevice> {
    return new KernelDevice(await promisify(open)('/dev/fuse', 'r+'));
  }

  // Not the promise API of node:fs: it is slower, and each request passes here.
  read(into: Buffer): Promise<number> {
    return new Promise((resolve, reject) => {
      read(this.fd, into, 0, into.length, null, (error, count) => {
        if (error === null) resolve(count);
        else reject(error);
      });
    });
  }

  send(parts: readonly Uint8Array[]): void {
    writevSync(this.fd, parts);
  }

  async sendInThread(parts: readonly Uint8Array[]): Promise<void> {
    await promisify(writev)(this.fd, parts);
  }

  close(): void {
    close(this.fd, () => undefined); // nothing is lost by a failure: the kernel has let go already
  }

  /**
   * Mounts on `mountpoint` by mount(8), which inherits the descriptor. The kernel's first request comes while it runs,
   * so it must be read meanwhile.
   */
  async mount(source: string, mountpoint: string, options: readonly string[]): Promise<void> {
    const inherited = 3;
    const all = [`fd=${inherited}`, 'rootmode=40000', ...options].join(',');
    // -i: no mount.fuse helper, which would start a daemon of its own.
    const child = spawn('mount', ['-i', '-t', MOUNT_TYPE, '-o', all, '--', source, mountpoint], {
      stdio: ['ignore', 'ignore', 'pipe', this.fd],
      env: { ...process.env, LC_ALL: 'C' },
    });
    let said = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-1000);
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    if (code !== 0)
      throw new CairnError('EIO', `cannot mount on ${mountpoint}: ${said.trim() || `mount(8) gave ${code}`}`);
  }
}
