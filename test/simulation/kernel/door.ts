/**
 * The kernel's end of a mount's descriptor: requests go out and answers come back, and what the mount tells the kernel without being
 * asked is carried out by the model of it.
 */
import { FakeKernel } from '../../support/fakes/fake-kernel.js';

const HEADER_BYTES = 16;
const NOTIFY_INVAL_INODE = 2;
const NOTIFY_INVAL_ENTRY = 3;
const NOTIFY_STORE = 4;
const EXPIRE_ONLY = 1;

/** What a mount may tell. Each returns false when the kernel does not know the inode. */
export interface Told {
  /** Attributes are old; and with an `offset` of 0 or more, pages from there on are (`length` 0: all of them). */
  forget(nodeid: number, offset: number, length: number): Promise<boolean> | boolean;
  /** A name in a directory is not to be believed; unless `expireOnly` it is forgotten. Resolves when it is, as `forget`. */
  disbelieve(directory: number, name: string, expireOnly: boolean): Promise<boolean>;
  /** Bytes for the pages. */
  store(nodeid: number, offset: number, bytes: Buffer): boolean;
}

const failure = (code: string): Error => Object.assign(new Error(code), { code });

export class Door extends FakeKernel {
  told: Told | undefined;

  override send(parts: readonly Uint8Array[]): void {
    const message = Buffer.concat(parts);
    if (isAnswer(message)) super.send(parts);
    else if (this.carryOut(message) === false) throw failure('ENOENT');
  }

  /** Resolves when it is carried out, which may have to wait. */
  override async sendInThread(parts: readonly Uint8Array[]): Promise<void> {
    const message = Buffer.concat(parts);
    await Promise.resolve();
    if (isAnswer(message)) super.send(parts);
    else if (!(await this.carryOut(message))) throw failure('ENOENT');
  }

  private carryOut(message: Buffer): Promise<boolean> | boolean {
    const body = message.subarray(HEADER_BYTES);
    const nodeid = Number(body.readBigUInt64LE(0));
    const offset = Number(body.readBigInt64LE(8));
    switch (message.readInt32LE(4)) {
      case NOTIFY_INVAL_INODE:
        return this.told?.forget(nodeid, offset, Number(body.readBigInt64LE(16))) ?? false;
      case NOTIFY_INVAL_ENTRY: {
        const name = body.toString('latin1', 16, 16 + body.readUInt32LE(8));
        return this.told?.disbelieve(nodeid, name, (body.readUInt32LE(12) & EXPIRE_ONLY) !== 0) ?? false;
      }
      case NOTIFY_STORE:
        return this.told?.store(nodeid, offset, Buffer.from(body.subarray(24))) ?? false;
      default:
        throw failure('EINVAL');
    }
  }
}

const isAnswer = (message: Buffer): boolean => message.readBigUInt64LE(8) !== 0n;
