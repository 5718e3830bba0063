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
    const { random, calls } = this.options;
    const path = `${DIRECTORY}/${name}`;
    let isThere = false;
    for (let call = 0; call < calls; call++) {
      await this.pause();
      const version = ++this.version;
      if (!isThere) {
        await this.change(name, version, async () => {
          await this.fill(kernel, await kernel.create(path), version);
        });
        isThere = true;
        continue;
      }
      switch (random.below(4)) {
        case 0:
          await this.change(name, undefined, () => kernel.unlink(path));
          isThere = false;
          break;
        case 1: {
          const beside = `${DIRECTORY}/${name}.new`;
          await this.fill(kernel, await kernel.create(beside), version);
          await this.change(name, version, () => kernel.rename(beside, path));
          break;
        }
        default:
          await this.change(name, version, async () => {
            await this.fill(kernel, await kernel.open(path, true), version);
          });
      }
    }
  }

  private async fill(
    kernel: SimulatedMount['kernel'],
    file: Awaited<ReturnType<SimulatedMount['kernel']['open']>>,
    version: number,
  ): Promise<void> {
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
      const path = `${DIRECTORY}/${name}`;
      const beginMs = this.now;
      if (random.below(2) === 0) {
        const size = await orAbsent(async () => String((await kernel.stat(path)).size));
        if (size !== EMPTY) this.told.observe(name, `stat on ${host}`, size, { beginMs, endMs: this.now });
        continue;
      }
      let bytes = '';
      const saw = await orAbsent(async () => {
        const file = await kernel.open(path);
        const how = random.below(2) === 0 ? 'read' : 'sendfile';
        bytes = (await kernel[how](file, 0, MAX_READ_BYTES)).toString('latin1');
        await kernel.close(file);
        return bytes.split(';')[0] ?? '';
      });
      const interval = { beginMs, endMs: this.now };
      // A file that is being made is empty before it has its first bytes.
      if (saw === '') continue;
      this.opened.observe(name, `open on ${host}`, saw, interval);
      if (saw !== ABSENT) this.ends.observe(name, `end of file on ${host}`, String(bytes.length), interval);
    }
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

async function orAbsent(look: () => Promise<string>): Promise<string> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof SystemCallError && error.errno === ERRNO.ENOENT) return ABSENT;
    throw error;
  }
}
