/**
 * Names in one directory, each with one writer, who makes, changes, replaces and removes what it leads to; programs on other mounts look
 * at all of them by stat(2), and by open(2) and read(2) or sendfile(2). A file says in its bytes which version of it it is; each tenth
 * is longer than the ones before.
 */
import { pick } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { LinearHistory } from '../judges/linear-history.js';
import { ERRNO, SystemCallError } from '../kernel/answers.js';
import type { SimulatedMount } from '../kernel/simulated-mount.js';
import type { World } from '../world/world.js';

const DIRECTORY = '/watched';
const ABSENT = 'absent';
/** The size of a file that is being made. */
const EMPTY = '0';
const SMALLEST_BYTES = 100;
const VERSIONS_PER_SIZE = 10;
const BYTES_MORE = 30;
const MAX_READ_BYTES = 16 * 1024;
const MAX_PAUSE_MS = 400;

type Kernel = SimulatedMount['kernel'];

export interface WatchedNamesOptions {
  readonly world: World;
  readonly random: Random;
  readonly mounts: readonly SimulatedMount[];
  readonly names: number;
  /** Of each program. */
  readonly calls: number;
}

export class WatchedNames {
  /** Sizes, as stat(2) said. */
  readonly told = new LinearHistory<string>(ABSENT);
  /** Versions that were there when a file was opened by its name. */
  readonly opened = new LinearHistory<string>(ABSENT);
  /** And where they ended. */
  readonly ends = new LinearHistory<string>(ABSENT);
  /** Calls that failed because something was out of reach. */
  troubles = 0;
  private version = 0;

  constructor(private readonly options: WatchedNamesOptions) {}

  async run(): Promise<void> {
    const { mounts, names } = this.options;
    await mounts[0]?.kernel.mkdir(DIRECTORY);
    const all = Array.from({ length: names }, (_, index) => `n${index}`);
    const writers = all.map((name, index) => this.write(mountAt(mounts, index), name));
    const readers = mounts.flatMap((mount) => [this.look(mount, all), this.look(mount, all)]);
    await Promise.all([...writers, ...readers]);
  }

  private async write({ kernel }: SimulatedMount, name: string): Promise<void> {
    const path = `${DIRECTORY}/${name}`;
    let isThere = false;
    for (let call = 0; call < this.options.calls; call++) {
      await this.pause();
      try {
        isThere = await this.changeOnce(kernel, path, name, isThere);
      } catch (error) {
        if (!isTrouble(error)) throw error;
        this.troubles++;
        // Whether it took effect nobody has told.
        isThere = await this.isThere(kernel, path);
      }
    }
  }

  /** Returns whether the name leads to something then. */
  private async changeOnce(kernel: Kernel, path: string, name: string, isThere: boolean): Promise<boolean> {
    const version = ++this.version;
    if (!isThere) {
      await this.change(name, version, async () => {
        await this.fill(kernel, await kernel.create(path), version);
      });
      return true;
    }
    switch (this.options.random.below(4)) {
      case 0:
        await this.change(name, undefined, () => kernel.unlink(path));
        return false;
      case 1: {
        const beside = `${path}.${version}`;
        await this.fill(kernel, await kernel.create(beside), version);
        await this.change(name, version, () => kernel.rename(beside, path));
        return true;
      }
      default:
        await this.change(name, version, async () => {
          await this.fill(kernel, await kernel.open(path, true), version);
        });
        return true;
    }
  }

  private async isThere(kernel: Kernel, path: string): Promise<boolean> {
    for (;;) {
      try {
        return (await orAbsent(async () => String((await kernel.stat(path)).size))) !== ABSENT;
      } catch (error) {
        if (!isTrouble(error)) throw error;
        await this.pause();
      }
    }
  }

  private async fill(kernel: Kernel, file: Awaited<ReturnType<Kernel['open']>>, version: number): Promise<void> {
    await kernel.write(file, 0, Buffer.from(`v${version};`.padEnd(sizeOf(version), '.')));
    await kernel.close(file);
  }

  /** `version` undefined: the name goes. */
  private async change(name: string, version: number | undefined, make: () => Promise<void>): Promise<void> {
    const beginMs = this.now;
    const [content, size] = version === undefined ? [ABSENT, ABSENT] : [`v${version}`, String(sizeOf(version))];
    const changes = [
      this.opened.begin(name, content, beginMs),
      this.told.begin(name, size, beginMs),
      this.ends.begin(name, size, beginMs),
    ];
    await make();
    for (const change of changes) change.end(this.now);
  }

  private async look({ kernel, host }: SimulatedMount, names: readonly string[]): Promise<void> {
    const { random, calls } = this.options;
    for (let call = 0; call < 2 * calls; call++) {
      await this.pause();
      const name = pick(random, names);
      try {
        await (random.below(2) === 0 ? this.lookAt(kernel, host, name) : this.readBy(kernel, host, name));
      } catch (error) {
        if (!isTrouble(error)) throw error;
        this.troubles++;
      }
    }
  }

  private async lookAt(kernel: Kernel, host: string, name: string): Promise<void> {
    const beginMs = this.now;
    const size = await orAbsent(async () => String((await kernel.stat(`${DIRECTORY}/${name}`)).size));
    if (size !== EMPTY) this.told.observe(name, `stat on ${host}`, size, { beginMs, endMs: this.now });
  }

  private async readBy(kernel: Kernel, host: string, name: string): Promise<void> {
    const beginMs = this.now;
    let bytes = '';
    const saw = await orAbsent(async () => {
      const file = await kernel.open(`${DIRECTORY}/${name}`);
      try {
        const how = this.options.random.below(2) === 0 ? 'read' : 'sendfile';
        bytes = (await kernel[how](file, 0, MAX_READ_BYTES)).toString('latin1');
      } finally {
        await kernel.close(file);
      }
      return bytes.split(';')[0] ?? '';
    });
    const interval = { beginMs, endMs: this.now };
    // A file that is being made is empty before it has its first bytes.
    if (saw === '') return;
    this.opened.observe(name, `open on ${host}`, saw, interval);
    // While a version takes the place of another one, bytes of one may end where the other does.
    if (saw !== ABSENT) this.ends.observe(name, `end of file on ${host}`, String(bytes.length), interval);
  }

  private pause(): Promise<void> {
    const { world, random } = this.options;
    return world.sleep(random.below(4) === 0 ? random.below(MAX_PAUSE_MS * 4) : random.below(MAX_PAUSE_MS));
  }

  private get now(): number {
    return this.options.world.clock.nowUs / 1000;
  }
}

/** Versions only grow: what is written in place covers what was there. */
const sizeOf = (version: number): number => SMALLEST_BYTES + Math.floor(version / VERSIONS_PER_SIZE) * BYTES_MORE;

function mountAt(mounts: readonly SimulatedMount[], index: number): SimulatedMount {
  const mount = mounts[index % mounts.length];
  if (mount === undefined) throw new RangeError('there is no mount');
  return mount;
}

/** What a program is told when the cluster cannot be reached in time. */
const isTrouble = (error: unknown): boolean =>
  error instanceof SystemCallError && (error.errno === ERRNO.EIO || error.errno === ERRNO.ETIMEDOUT);

async function orAbsent(look: () => Promise<string>): Promise<string> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof SystemCallError && error.errno === ERRNO.ENOENT) return ABSENT;
    throw error;
  }
}
