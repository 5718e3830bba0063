/**
 * A whole cluster in one process: a master, chunkservers and clients on a simulated clock, network and disks, from one
 * seed. Everything that happens is a line of the trace; the same seed gives the same trace.
 *
 *   const world = new World({ seed });
 *   await world.run(async () => { await world.startAll(); const fs = await world.connect('client-1'); ... });
 */
import assert from 'node:assert/strict';
import type { Clock } from '../../../src/core/clock.js';
import { outsideLocks } from '../../../src/core/lock-order.js';
import { hasCode } from '../../../src/core/errors.js';
import { setAudits } from '../../../src/core/invariant.js';
import { KIB } from '../../../src/core/limits.js';
import type { Logger } from '../../../src/core/logging/logger.js';
import type { Random } from '../../../src/core/random.js';
import { SeededRandom } from '../../../src/core/random.js';
import { Chunkserver } from '../../../src/chunkserver/chunkserver.js';
import { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { ClusterFileSystemConfig } from '../../../src/client/connect.js';
import { Master } from '../../../src/master/master.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import type { Network } from '../../../src/protocol/transport.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';
import { Guards } from '../machine/guards.js';
import { MachineTime } from '../machine/machine-time.js';
import type { FreezeKind } from '../machine/machine-time.js';
import { runUntilSettled } from '../machine/run-until.js';
import type { RunLimits } from '../machine/run-until.js';
import { SimulatedClock } from '../machine/simulated-clock.js';
import { SimulatedDisk } from '../machine/simulated-disk.js';
import { SimulatedNetwork } from '../machine/simulated-network.js';
import type { Incarnation } from '../machine/simulated-network.js';
import { SimulatedStore } from '../machine/simulated-store.js';
import { Trace } from './trace.js';

export interface WorldOptions {
  readonly seed: number;
  readonly chunkservers?: number;
  readonly wantedReplicas?: number;
  /** Of each chunkserver: /data, /data-2 and so on. */
  readonly dataDirectories?: number;
  readonly minReplicas?: number;
  /** Wall clocks of machines differ by up to this, either way. */
  readonly maxSkewMs?: number;
  /** Called with each line of the trace. */
  readonly onLine?: (line: string) => void;
}

export const MASTER = 'master';
const PORT = 7000;
const DEFAULT_SKEW_MS = 2_000;

/** What one process gets from the outside. */
export interface ProcessDependencies {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly logger: Logger;
}

/** As the program (cli/machine/service.ts). */
const LONGEST_STOP_MS = 15_000;

interface Machine {
  readonly name: string;
  readonly disk: SimulatedDisk;
  /** Gone when its power is. */
  readonly notes: MemoryNotes;
  readonly time: MachineTime;
  /** Its wall clock, against that of the world. */
  skewUs: number;
  incarnation: Incarnation | undefined;
  /** What runs in it. */
  process: { stop(): Promise<void> } | undefined;
  /** Ends the wait for a start that is under way. */
  endStart: (() => void) | undefined;
}

export class World {
  readonly clock = new SimulatedClock();
  readonly random: SeededRandom;
  readonly trace: Trace;
  readonly network: SimulatedNetwork;
  readonly secret: Buffer;
  readonly chunkservers: readonly string[];
  /** Of each chunkserver. */
  readonly dataDirectories: readonly string[];
  /** Ids of disks that are gone for good: what each start of a chunkserver is told. */
  readonly forgottenDisks: string[] = [];
  /** What the next start of the master is told. */
  wantedReplicas: number;
  private readonly machines = new Map<string, Machine>();
  readonly store: SimulatedStore;
  private readonly guards = new Guards();
  /** What went wrong where nobody was waiting for it. */
  private readonly failures: unknown[] = [];
  private isStopped = false;

  constructor(private readonly options: WorldOptions) {
    setAudits(true);
    this.random = new SeededRandom(options.seed);
    this.trace = new Trace(() => this.clock.nowUs, options.onLine);
    this.network = new SimulatedNetwork(this.clock, this.fork(), this.trace);
    this.store = new SimulatedStore(new MemoryStore(), this.clock, this.fork(), this.trace);
    this.secret = this.random.bytes(32);
    this.chunkservers = Array.from({ length: options.chunkservers ?? 3 }, (_, index) => `chunkserver-${index + 1}`);
    this.dataDirectories = Array.from({ length: options.dataDirectories ?? 1 }, (_, index) =>
      index === 0 ? '/data' : `/data-${index + 1}`,
    );
    this.wantedReplicas = options.wantedReplicas ?? 2;
  }

  get seed(): number {
    return this.options.seed;
  }

  /** Runs `body` in simulated time until it ends. Real time and chance are out of reach meanwhile. */
  async run<T>(body: () => Promise<T>, limits?: RunLimits): Promise<T> {
    const onRejection = (reason: unknown): void => {
      this.failures.push(reason);
    };
    process.on('unhandledRejection', onRejection);
    this.guards.install();
    let result: T;
    try {
      result = await runUntilSettled(this.clock, body(), { hasFailed: () => this.failures.length > 0, ...limits });
    } catch (error) {
      throw this.backgroundFailure() ?? error;
    } finally {
      this.guards.uninstall();
      process.off('unhandledRejection', onRejection);
    }
    const failure = this.backgroundFailure();
    if (failure !== undefined) throw failure;
    assert.deepEqual(this.guards.violations, []);
    return result;
  }

  private backgroundFailure(): Error | undefined {
    if (this.failures.length === 0) return undefined;
    return new AggregateError(this.failures, `in the background: ${this.failures.map(String).join('; ')}`);
  }

  /** As `run`, and a failure says the seed and what happened last. */
  async runReported<T>(body: () => Promise<T>, limits?: RunLimits): Promise<T> {
    try {
      return await this.run(body, limits);
    } catch (error) {
      const what = error instanceof Error ? error : new Error(String(error));
      process.stderr.write(`${this.report()}\n`);
      throw new Error(`seed ${this.seed}: ${what.message}`, { cause: error });
    }
  }

  /** How to see a failure again. */
  report(): string {
    return [
      `seed ${this.seed}: run it again with CAIRN_SEED=${this.seed}`,
      `simulated seconds ${(this.clock.nowUs / 1e6).toFixed(3)}, events ${this.clock.eventsRun}; the last of ${this.trace.count} lines:`,
      ...this.trace.tail(Number(process.env['CAIRN_TRACE_LINES'] ?? 30)).map((line) => `  ${line}`),
    ].join('\n');
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.clock.schedule(delayMs * 1000, resolve);
    });
  }

  /** Runs `work` in the background; its failure fails the run. */
  background(work: () => Promise<unknown>): void {
    work().catch((error: unknown) => {
      if (!this.isStopped) this.failures.push(error);
    });
  }

  async startAll(): Promise<void> {
    await this.start(MASTER);
    for (const name of this.chunkservers) await this.start(name);
    // Chunkservers register by themselves.
    await this.sleep(3000);
  }

  start(name: string): Promise<void> {
    // As what holds a lock in a process that is killed now may be what calls this.
    return outsideLocks(() => this.startNow(name));
  }

  private async startNow(name: string): Promise<void> {
    const machine = this.machine(name);
    assert.ok(machine.incarnation === undefined, `${name} runs already`);
    const incarnation = this.newIncarnation(machine);
    this.trace.add(`start ${name}`);
    const dependencies = {
      ...this.dependencies(machine, incarnation),
      ...{ disk: machine.disk.forProcess(incarnation), bootNotes: machine.notes.forProcess(() => incarnation.isAlive) },
    };
    const common = { listen: `${name}:${PORT}`, secret: this.secret };
    if (name === MASTER) {
      const master = new Master(
        { ...dependencies, store: this.store.forProcess(incarnation) },
        {
          ...common,
          logDirectory: '/log',
          reserveBytes: 256 * KIB,
          wantedReplicas: this.wantedReplicas,
          minReplicas: this.options.minReplicas ?? 1,
        },
      );
      machine.process = master;
      await this.started(machine, master.start());
      // Its program ends then.
      const ended = master.failed.then(async (error) => {
        this.trace.add(`${name} ends: ${error.message}`);
        if (machine.incarnation === incarnation) await this.kill(name);
      });
      this.background(() => ended);
    } else {
      const chunkserver = new Chunkserver(dependencies, {
        ...common,
        master: `${MASTER}:${PORT}`,
        dataDirectories: this.dataDirectories,
        forgetDisks: this.forgottenDisks,
      });
      machine.process = chunkserver;
      await this.started(machine, chunkserver.start());
    }
  }

  /** Until it has started, or was killed meanwhile: nothing that it waits for comes then. */
  private async started(machine: Machine, start: Promise<unknown>): Promise<void> {
    const ended = new Promise<void>((resolve) => (machine.endStart = resolve));
    await Promise.race([start, ended]);
  }

  /** As `start`; false when the process ends at its start, which it says in its log. */
  async tryStart(name: string): Promise<boolean> {
    try {
      await this.start(name);
      return true;
    } catch (error) {
      this.trace.add(`${name} does not start: ${String(error)}`);
      await this.kill(name);
      return false;
    }
  }

  async tryPowerOn(name: string): Promise<boolean> {
    this.network.hostUp(name);
    return this.tryStart(name);
  }

  /** A client in a process of its own. */
  connect(
    name: string,
    tunables: Omit<ClusterFileSystemConfig, 'master' | 'secret' | 'clientName'> = {},
  ): Promise<ClusterFileSystem> {
    return ClusterFileSystem.connect(this.processDependencies(name), {
      master: `${MASTER}:${PORT}`,
      secret: this.secret,
      clientName: name,
      // Files are small here.
      minDirectCopyBytes: 1,
      ...tunables,
    });
  }

  /** For a test's own process, such as one that speaks the protocol by itself. */
  processDependencies(name: string): ProcessDependencies {
    const machine = this.machine(name);
    return this.dependencies(machine, machine.incarnation ?? this.newIncarnation(machine));
  }

  isRunning(name: string): boolean {
    return this.machine(name).incarnation !== undefined;
  }

  disk(name: string): SimulatedDisk {
    return this.machine(name).disk;
  }

  notes(name: string): MemoryNotes {
    return this.machine(name).notes;
  }

  /**
   * SIGTERM to a server that has started: it writes out what it holds and ends. False when it takes too long for that, and is killed;
   * or when it is the master and its disk fails meanwhile, which ends it.
   */
  async end(name: string): Promise<boolean> {
    const machine = this.machine(name);
    const { incarnation, process } = machine;
    if (incarnation === undefined || process === undefined) return false;
    this.trace.add(`end ${name}`);
    const stopped = process.stop().then(
      () => true,
      (error: unknown) => {
        if (name !== MASTER || !hasCode(error, 'UNAVAILABLE')) throw error;
        this.trace.add(`${name} ends: ${String(error)}`);
        return false;
      },
    );
    const isDone = await Promise.race([stopped, this.sleep(LONGEST_STOP_MS).then(() => false)]);
    if (machine.incarnation === incarnation) await this.kill(name);
    return isDone;
  }

  /** kill -9: what was written stays. */
  async kill(name: string): Promise<void> {
    const machine = this.machine(name);
    const { incarnation } = machine;
    if (incarnation === undefined) return;
    this.trace.add(`fault kill ${name}`);
    machine.incarnation = undefined;
    machine.endStart?.();
    incarnation.isAlive = false;
    machine.disk.processKilled(incarnation);
    this.network.processKilled(incarnation);
    if (name === MASTER) await this.store.processKilled(incarnation);
  }

  /**
   * The machine goes down: what was not synced may be lost, wholly if asked, and nobody is told. `powerOn` brings it back.
   * Returns how many changes on its disk were lost.
   */
  async powerOff(name: string, keeps: 'some' | 'nothing' = 'some'): Promise<number> {
    const machine = this.machine(name);
    const { incarnation } = machine;
    if (incarnation === undefined) return 0;
    this.trace.add(`fault power-off ${name}`);
    machine.incarnation = undefined;
    machine.endStart?.();
    incarnation.isAlive = false;
    machine.disk.processKilled(incarnation);
    this.network.hostDown(incarnation);
    if (name === MASTER) await this.store.processKilled(incarnation);
    machine.notes.notes.clear();
    return machine.disk.losePower(keeps);
  }

  /** Nothing happens on the machine before `thaw`; nobody is told. */
  freeze(name: string, kind: FreezeKind): void {
    this.trace.add(`fault ${kind} ${name}`);
    this.machine(name).time.freeze(kind);
    this.network.freeze(name);
  }

  /** The machine goes on. Returns how much of its own was held back. */
  thaw(name: string): number {
    this.trace.add(`thaw ${name}`);
    this.network.thaw(name);
    return this.machine(name).time.thaw();
  }

  /** Somebody sets its wall clock. */
  moveClock(name: string, byMs: number): void {
    this.trace.add(`fault clock ${name} ${byMs} ms`);
    this.machine(name).skewUs += byMs * 1000;
  }

  isFrozen(name: string): boolean {
    return this.machine(name).time.isFrozen;
  }

  /** Resolves when the machine does not stand still: a program on it makes no call meanwhile. */
  awake(name: string): Promise<void> {
    return this.machine(name).time.awake();
  }

  async powerOn(name: string): Promise<void> {
    this.network.hostUp(name);
    await this.start(name);
  }

  /** Ends everything; nothing of this world happens any more. */
  stop(): void {
    this.isStopped = true;
    for (const machine of this.machines.values()) {
      if (machine.incarnation !== undefined) machine.incarnation.isAlive = false;
    }
  }

  private fork(): SeededRandom {
    return new SeededRandom(this.random.below(2 ** 32));
  }

  private machine(name: string): Machine {
    let machine = this.machines.get(name);
    if (machine === undefined) {
      const disk = new SimulatedDisk(name, this.clock, this.fork(), this.trace);
      for (const path of name === MASTER ? ['/log'] : this.dataDirectories) disk.format(path);
      const maxSkewUs = (this.options.maxSkewMs ?? DEFAULT_SKEW_MS) * 1000;
      const skewUs = this.random.below(2 * maxSkewUs + 1) - maxSkewUs;
      const own = { disk, notes: new MemoryNotes(), time: new MachineTime(this.clock), skewUs };
      machine = { name, ...own, incarnation: undefined, process: undefined, endStart: undefined };
      this.machines.set(name, machine);
    }
    return machine;
  }

  private newIncarnation(machine: Machine): Incarnation {
    const incarnation = { host: machine.name, time: machine.time, isAlive: true };
    machine.incarnation = incarnation;
    return incarnation;
  }

  private dependencies(machine: Machine, incarnation: Incarnation): ProcessDependencies {
    const { name } = machine;
    return {
      clock: this.clock.forProcess({
        isAlive: () => incarnation.isAlive,
        time: machine.time,
        skewUs: () => machine.skewUs,
        onFire: () => this.trace.add(`timer ${name}`),
      }),
      random: this.fork(),
      network: this.network.forProcess(incarnation),
      logger: this.logger(name),
    };
  }

  /** Log lines are part of the trace. With CAIRN_LOG set, they are printed too. */
  private logger(name: string): Logger {
    const at =
      (level: string) =>
      (fields: object, message: string): void => {
        this.trace.add(`log ${level} ${name}: ${message} ${JSON.stringify(fields)}`);
        if (process.env['CAIRN_LOG'] !== undefined) {
          process.stderr.write(
            `${(this.clock.nowUs / 1e6).toFixed(6)} ${level} ${name}: ${message} ${JSON.stringify(fields)}\n`,
          );
        }
        if (level !== 'debug') this.logLines.set(name, (this.logLines.get(name) ?? 0) + 1);
        if (level === 'error') this.errorLines.push(`${name}: ${message} ${JSON.stringify(fields)}`);
      };
    const logger: Logger = {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      child: () => logger,
    };
    return logger;
  }

  /** How many lines each host's processes logged, but for 'debug'. */
  readonly logLines = new Map<string, number>();
  /** Lines that the processes logged as errors. */
  readonly errorLines: string[] = [];
}
