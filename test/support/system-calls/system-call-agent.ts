/**
 * A child process that does system calls on command, as any user: system-call-agent.c, compiled when it is first wanted.
 * Tests use it on mounts, since a process must never wait for a mount that waits for it.
 */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CairnError, POSIX_ERRORS } from '../../../src/core/errors.js';
import type { PosixErrorCode } from '../../../src/core/errors.js';
import type { Credentials } from '../../../src/filesystem/filesystem.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';

const SOURCE = fileURLToPath(new URL('../../../../test/support/system-calls/system-call-agent.c', import.meta.url));
const INTERRUPT_EVERY_MS = 20;

const NAME_OF_ERRNO: ReadonlyMap<number, string> = new Map(
  [constants.errno, POSIX_ERRORS].flatMap((codes) => Object.entries(codes).map(([name, number]) => [number, name])),
);

/** What a call failed with, when it is no error that CairnFS knows. */
export class SystemCallError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = 'SystemCallError';
  }
}

/** Of a call: a number or an address; bytes or text that it reads; how many it fills; bytes that it changes. */
export type Argument =
  number | bigint | Uint8Array | string | { readonly fill: number } | { readonly change: Uint8Array };

export interface CallOptions {
  /** Default: root. */
  readonly as?: Credentials | undefined;
  /** Default: 0. */
  readonly umask?: number | undefined;
  /** Interrupts the call by a signal to its thread, until it ends. */
  readonly signal?: AbortSignal | undefined;
}

export interface CallResult {
  readonly value: number;
  readonly valueBig: bigint;
  /** What was filled or changed. */
  readonly outputs: readonly Buffer[];
}

interface Pending {
  readonly resolve: (answer: Buffer) => void;
  readonly reject: (error: Error) => void;
}

let compiled: Promise<string> | undefined;

async function compile(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-agent-'));
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }));
  const program = join(directory, 'system-call-agent');
  await promisify(execFile)('gcc', ['-O1', '-pthread', '-o', program, SOURCE]);
  return program;
}

export class SystemCallAgent {
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private received: Buffer[] = [];
  private receivedLength = 0;
  private complaint = '';

  private constructor(private readonly child: ChildProcessByStdio<Writable, Readable, Readable>) {
    child.stdout.on('data', (bytes: Buffer) => this.receive(bytes));
    child.stderr.on('data', (bytes: Buffer) => (this.complaint += bytes.toString()));
    const end = (): void => {
      for (const { reject } of this.pending.values()) reject(new Error(`the agent ended: ${this.complaint}`));
      this.pending.clear();
    };
    child.on('error', end);
    child.on('close', end);
    child.stdin.on('error', end);
  }

  static async start(): Promise<SystemCallAgent> {
    compiled ??= compile();
    return new SystemCallAgent(spawn(await compiled, [], { cwd: '/', stdio: ['pipe', 'pipe', 'pipe'] }));
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** Ends at once, with all that it has open. Also when a call hangs in a mount that does not answer. */
  stop(): void {
    this.child.stdin.destroy();
    this.child.kill('SIGKILL');
  }

  /** Throws what the call fails with: a CairnError, or a SystemCallError for errors that CairnFS does not know. */
  async call(name: string, args: readonly Argument[], options: CallOptions = {}): Promise<CallResult> {
    const answer = await this.exchange(name, args, options);
    const result = answer.readBigInt64LE(4);
    if (result < 0n && result >= -4095n) {
      const code = NAME_OF_ERRNO.get(Number(-result)) ?? `errno ${-result}`;
      const message = `${name}(${args.map(describe).join(', ')})`;
      if (code in POSIX_ERRORS) throw new CairnError(code as PosixErrorCode, `${message}: ${code}`);
      throw new SystemCallError(code, `${message}: ${code}`);
    }
    const outputs: Buffer[] = [];
    for (let at = 12; at < answer.length;) {
      const length = answer.readUInt32LE(at);
      outputs.push(answer.subarray(at + 4, at + 4 + length));
      at += 4 + length;
    }
    return { value: Number(result), valueBig: result, outputs };
  }

  private exchange(name: string, args: readonly Argument[], options: CallOptions): Promise<Buffer> {
    const { uid, gid, groups } = options.as ?? ROOT_CREDENTIALS;
    const id = this.nextId++;
    const head = Buffer.alloc(19 + 4 * groups.length);
    head.writeUInt32LE(id, 0);
    for (const [index, value] of [uid, gid, options.umask ?? 0].entries()) head.writeUInt32LE(value, 5 + 4 * index);
    head.writeUInt16LE(groups.length, 17);
    for (const [index, group] of groups.entries()) head.writeUInt32LE(group, 19 + 4 * index);
    const parts: Buffer[] = [head, Buffer.from([name.length]), Buffer.from(name), Buffer.from([args.length])];
    for (const argument of args) parts.push(...encode(argument));
    return new Promise<Buffer>((resolve, reject) => {
      const { signal } = options;
      let timer: NodeJS.Timeout | undefined;
      const interrupt = (): void => {
        const message = Buffer.alloc(5, 1);
        message.writeUInt32LE(id, 0);
        this.send([message]);
        // A signal that comes before the call waits is lost.
        timer = setTimeout(interrupt, INTERRUPT_EVERY_MS);
      };
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', interrupt);
      };
      this.pending.set(id, {
        resolve: (answer) => {
          end();
          resolve(answer);
        },
        reject: (error) => {
          end();
          reject(error);
        },
      });
      this.send(parts);
      if (signal?.aborted === true) interrupt();
      else signal?.addEventListener('abort', interrupt);
    });
  }

  private send(parts: readonly Buffer[]): void {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(parts.reduce((sum, part) => sum + part.length, 0));
    this.child.stdin.write(Buffer.concat([length, ...parts]));
  }

  private receive(bytes: Buffer): void {
    this.received.push(bytes);
    this.receivedLength += bytes.length;
    for (;;) {
      if (this.receivedLength < 4) return;
      let first = this.received[0] ?? Buffer.alloc(0);
      if (first.length < 4) first = this.join();
      const length = 4 + first.readUInt32LE(0);
      if (this.receivedLength < length) return;
      const all = this.join();
      const answer = all.subarray(4, length);
      this.received = [all.subarray(length)];
      this.receivedLength -= length;
      const id = answer.readUInt32LE(0);
      this.pending.get(id)?.resolve(answer);
      this.pending.delete(id);
    }
  }

  private join(): Buffer {
    const all = this.received.length === 1 ? (this.received[0] ?? Buffer.alloc(0)) : Buffer.concat(this.received);
    this.received = [all];
    return all;
  }
}

function encode(argument: Argument): Buffer[] {
  if (typeof argument === 'number' || typeof argument === 'bigint') {
    const bytes = Buffer.alloc(9);
    bytes.writeBigInt64LE(BigInt(argument), 1);
    return [bytes];
  }
  // C's strings end in a zero; bytes are what they are.
  const bytes =
    typeof argument === 'string'
      ? Buffer.from(`${argument}\0`)
      : argument instanceof Uint8Array
        ? argument
        : 'change' in argument
          ? argument.change
          : undefined;
  const head = Buffer.alloc(5);
  head.writeUInt8(bytes === undefined ? 2 : typeof argument === 'object' && 'change' in argument ? 3 : 1, 0);
  if (bytes !== undefined) {
    head.writeUInt32LE(bytes.length, 1);
    return [head, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)];
  }
  head.writeUInt32LE((argument as { readonly fill: number }).fill, 1);
  return [head];
}

function describe(argument: Argument): string {
  if (typeof argument === 'string') return `'${argument}'`;
  if (argument instanceof Uint8Array)
    return argument.length > 80 ? `${argument.length} bytes` : JSON.stringify(Buffer.from(argument).toString('latin1'));
  return typeof argument === 'object' ? '…' : String(argument);
}
