/**
 * A mount over a model of its kernel, while another mount changes what the kernel was told to believe: a call that begins when a change is
 * made sees it, no program is told ESTALE or EIO, and all end. Answers to the kernel and threads that take them are late as it comes.
 */
import t from 'tap';
import { pick, SeededRandom } from '../../../src/core/random.js';
import type { Change, There } from '../../support/models/other-mount.js';
import { ERRNO, SystemCallError } from '../kernel/answers.js';
import { RecalledMount } from '../kernel/recalled-mount.js';
import type { Descriptor } from '../kernel/simulated-kernel.js';
import { seeds } from '../world/seeds.js';

t.setTimeout(0);

const DIRECTORIES = ['/d0', '/d1', '/d1/s'];
const NAMES = ['a', 'b', 'c', 'd'];
const ROUNDS = 150;
const MAX_READ_BYTES = 10_000;
/** What a program is told of a path in the way of things. */
const USUAL: readonly number[] = [ERRNO.ENOENT, ERRNO.EEXIST, 20, 21, 39, 22];
const isFile = (mode: number): boolean => (mode & 0o170000) === 0o100000;

interface Delays {
  /** Of an answer, and of one in a hundred; of a thread that has its answer; and of a change. */
  readonly usualMs: number;
  readonly longMs: number;
  readonly wakeMs: number;
  readonly longWakeMs: number;
  readonly changeMs: number;
}

const DELAYS: readonly Delays[] = [
  { usualMs: 0.2, longMs: 1, wakeMs: 0.1, longWakeMs: 1, changeMs: 0.2 },
  { usualMs: 1, longMs: 40, wakeMs: 0.3, longWakeMs: 600, changeMs: 3 },
  { usualMs: 10, longMs: 200, wakeMs: 0.3, longWakeMs: 30, changeMs: 1 },
];

class Course {
  readonly wrong: string[] = [];
  looks = 0;
  private readonly random: SeededRandom;
  private readonly mount = new RecalledMount();
  private readonly kernel = this.mount.kernel;
  private readonly other = this.mount.other;
  private delays: Delays = { usualMs: 0, longMs: 0, wakeMs: 0, longWakeMs: 0, changeMs: 0 };
  private isOver = false;

  constructor(private readonly seed: number) {
    this.random = new SeededRandom(seed);
    const { mount } = this;
    mount.model.delay = () => this.pause(this.delays.usualMs, this.delays.longMs);
    mount.model.changeDelay = () => this.pause(this.delays.changeMs, this.delays.changeMs);
    mount.wakeMs = () => this.timeOf(this.delays.wakeMs, this.delays.longWakeMs);
  }

  run(): Promise<void> {
    return this.mount.run(() => this.work());
  }

  private timeOf(usualMs: number, longMs: number): number {
    const ms = this.random.below(100) === 0 ? longMs : usualMs;
    return (this.random.below(1000) * ms) / 1000;
  }

  private pause(usualMs: number, longMs: number): Promise<void> {
    return this.mount.pause(this.timeOf(usualMs, longMs));
  }

  private async work(): Promise<void> {
    for (const path of DIRECTORIES) await this.other.change({ what: 'mkdir', path });
    const programs = [1, 2, 3, 4].map((number) => this.program(`w${number}`));
    for (let round = 0; round < ROUNDS && this.wrong.length === 0; round++) {
      if (round % 30 === 0) this.delays = pick(this.random, DELAYS);
      await this.round(round);
    }
    this.isOver = true;
    await Promise.all(programs);
  }

  private path(): string {
    return `${pick(this.random, DIRECTORIES)}/${pick(this.random, NAMES)}`;
  }

  private changeOf(round: number): Change {
    const path = this.path();
    const text = `${round}-`.padEnd(1 + this.random.below(6000), 'x');
    const what = pick(this.random, [
      'mkdir',
      'rmdir',
      'unlink',
      'rename',
      'write',
      'replace',
      'create',
      'create',
      'whole',
    ] as const);
    if (what === 'whole') return { what, path: pick(this.random, DIRECTORIES), text };
    return { what, path, text, ...(what === 'rename' && { to: this.path() }) };
  }

  /** Some names are looked at, changed, and looked at again; beside files that are open. */
  private async round(round: number): Promise<void> {
    const { random } = this;
    const changes = Array.from({ length: 1 + random.below(3) }, () => this.changeOf(round));
    const paths = [...new Set(changes.flatMap(({ path, to }) => [path, ...(to === undefined ? [] : [to])]))];
    await Promise.all(paths.map((path) => this.look(path, undefined)));
    const open = await this.openOne(pick(random, paths));
    const story = await Promise.all(
      changes.map(async ({ what, path, to }, index) => {
        const said = await this.try(changes[index]);
        return `${what} ${path} ${to ?? ''} ${said}`;
      }),
    );
    const about = `seed ${this.seed}, round ${round}, after ${story.join('; ')}`;
    await Promise.all(
      paths.flatMap((path) => {
        const there = this.other.there(path);
        return [1, 2].map(() => this.look(path, { about, there }));
      }),
    );
    if (open === undefined) return;
    const there = this.other.there('/', open.inode.attributes.ino);
    if (there !== undefined) {
      const { size } = await this.kernel.fstat(open);
      this.compare(about, 'fstat', String(size), String(there.size));
      const bytes = await this.kernel.read(open, 0, MAX_READ_BYTES);
      this.compare(about, 'read', bytes.toString('latin1'), there.text);
    }
    await this.kernel.close(open);
  }

  private async try(change: Change | undefined): Promise<string> {
    try {
      if (change !== undefined) await this.other.change(change);
      return 'done';
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  private async openOne(path: string): Promise<Descriptor | undefined> {
    const there = this.other.there(path);
    if (there === undefined || !isFile(there.mode)) return undefined;
    try {
      const file = await this.kernel.open(path);
      await this.kernel.read(file, 0, MAX_READ_BYTES);
      return file;
    } catch (error) {
      this.note(error);
      return undefined;
    }
  }

  private async look(
    path: string,
    expected: { readonly about: string; readonly there: There | undefined } | undefined,
  ): Promise<void> {
    const how = DIRECTORIES.includes(path) ? 'stat' : pick(this.random, ['stat', 'read', 'list'] as const);
    let saw: string;
    try {
      saw = await this.see(how, path);
    } catch (error) {
      this.note(error);
      saw = 'absent';
    }
    if (expected === undefined) return;
    const { about, there } = expected;
    this.compare(about, `${how} of ${path}`, saw, this.expectedOf(how, path, there));
  }

  private async see(how: 'stat' | 'read' | 'list', path: string): Promise<string> {
    switch (how) {
      case 'stat': {
        const { ino, mode, size } = await this.kernel.stat(path);
        return `${ino} ${mode.toString(8)} ${isFile(mode) ? size : ''}`;
      }
      case 'read': {
        const { mode } = await this.kernel.stat(path);
        if (!isFile(mode)) return 'directory';
        const file = await this.kernel.open(path);
        try {
          return (await this.kernel.read(file, 0, MAX_READ_BYTES)).toString('latin1');
        } finally {
          await this.kernel.close(file);
        }
      }
      default: {
        const name = path.slice(path.lastIndexOf('/') + 1);
        return String((await this.kernel.list(path.slice(0, path.lastIndexOf('/')))).includes(name));
      }
    }
  }

  private expectedOf(how: 'stat' | 'read' | 'list', path: string, there: There | undefined): string {
    if (how === 'list') {
      const parent = this.other.there(path.slice(0, path.lastIndexOf('/')));
      return parent === undefined || isFile(parent.mode) ? 'absent' : String(there !== undefined);
    }
    if (there === undefined) return 'absent';
    if (how === 'read') return isFile(there.mode) ? there.text : 'directory';
    return `${there.inode} ${there.mode.toString(8)} ${isFile(there.mode) ? there.size : ''}`;
  }

  private compare(about: string, how: string, saw: string, expected: string): void {
    this.looks++;
    const brief = (text: string): string => (text.length < 40 ? text : `${text.slice(0, 10)}… of ${text.length}`);
    if (saw !== expected) this.wrong.push(`${about}: ${how} saw ${brief(saw)}, not ${brief(expected)}`);
  }

  private note(error: unknown): void {
    if (error instanceof SystemCallError && USUAL.includes(error.errno)) return;
    this.wrong.push(`seed ${this.seed}: a program was told ${String(error)}`);
  }

  /** It changes what has its own name, and looks at all. */
  private async program(own: string): Promise<void> {
    const { random, kernel } = this;
    for (let number = 0; !this.isOver; number++) {
      await this.pause(5, 50);
      const directory = pick(random, DIRECTORIES);
      const mine = `${directory}/${own}${random.below(2)}`;
      try {
        switch (random.below(7)) {
          case 0:
            await kernel.mkdir(`${directory}/${own}-${number}`);
            break;
          case 1:
            await kernel.close(await kernel.create(mine));
            break;
          case 2:
            await kernel.unlink(mine);
            break;
          case 3:
            await kernel.rename(mine, `${directory}/${own}${random.below(2)}`);
            break;
          default:
            await this.look(this.path(), undefined);
        }
      } catch (error) {
        this.note(error);
      }
    }
  }
}

t.test('nothing old is seen, refused or hung while another mount changes what is believed', async (t) => {
  for (const seed of seeds(5)) {
    const course = new Course(seed);
    await course.run();
    t.same(course.wrong, [], `seed ${seed}: ${course.looks} looks`);
    t.ok(course.looks > 300 || course.wrong.length > 0);
  }
});
