/**
 * Who waits at a closed gate, and for how long. The kernel may hold the directory for a call that asks there, and lets go of a name
 * only when it does not: so nobody waits for long. Who came by a path is told ESTALE, lets go of the directory and walks once more, in which
 * it asks for every name and not for trusted ones: then it may pass. Who came by a descriptor trusts no name, and may pass at once.
 *
 * A second walk must not be told ESTALE again, which the program would be told, and a new call must not pass for one. Requests of a
 * second walk follow one another in a way that those of a first one rarely do: each directory was just looked up, but for the first one.
 */
import type { Clock } from '../../../core/clock.js';
import { CairnError } from '../../../core/errors.js';
import type { InodeId } from '../../../core/ids.js';
import { CLIENT_OPERATION_TIMEOUT_MS, MAX_SECOND_LOOKS } from '../../../core/limits.js';
import { isDirectory, isSymlink } from '../../../core/mode.js';
import { deferred } from '../../../core/sync.js';
import type { Opcode } from '../wire/protocol.js';
import type { Gates } from './gates.js';
import { mayTurnBack, parseSystemCall } from './system-call.js';
import type { SystemCall, Threads } from './system-call.js';

/** As a rule the kernel has let go by then, or one who asks here holds the directory. */
const PATIENCE_MS = 5;
/** Of who holds no directory while it walks: another call does, which waits for the cluster. */
const PATIENCE_OF_WALKS_MS = 250;
/** And of who cannot be told what it does, and may pass then. */
const PATIENCE_OF_STRANGERS_MS = 100;
/**
 * Who is to change a name that others have just made, and holds nothing yet, waits for as long as a call here that holds the directory: he
 * needs it himself. Before the kernel has let go of the name he would be told that there is none.
 */
const PATIENCE_OF_CHANGES_MS = 2 * CLIENT_OPERATION_TIMEOUT_MS;
/** A thread that has just asked waits for its answer by then. */
const FALLS_ASLEEP_MS = 1;
const LOOKS_AT_RUNNING = 20;
/** The steps of a second walk follow at once, on a machine that is not overloaded. */
const SECOND_WALK_MS = 2_000;

/** The kernel is to walk once more. It says nothing about what is there. */
export class GateRefusal extends CairnError {
  constructor(directory: InodeId) {
    super('ESTALE', `names in directory ${directory} are changed by others now`);
  }
}

/** What a thread asked last, as far as it matters. */
type Step =
  | { readonly did: 'was refused' }
  | { readonly did: 'looked up'; found: number | undefined; leadsOn: boolean }
  | { readonly did: 'other' };

interface SecondWalk {
  readonly identity: string;
  lastMs: number;
  step: Step;
  /** It came upon a symlink. */
  turned: boolean;
}

export interface DoorkeeperOptions {
  readonly clock: Clock;
  readonly gates: Gates;
  readonly threads: Threads;
  /** A thread that opens what it finds is made to walk once more. */
  readonly onOpenRefused: (thread: number) => void;
}

/** What does not end a second walk. */
const STEPS: ReadonlySet<Opcode> = new Set<Opcode>(['LOOKUP', 'GETATTR', 'READLINK', 'GETXATTR', 'RELEASE', 'FLUSH']);

export class Doorkeeper {
  /** By thread, bounded by MAX_SECOND_LOOKS. */
  private readonly walks = new Map<number, SecondWalk>();

  constructor(private readonly options: DoorkeeperOptions) {}

  /** A thread makes a request; a GETATTR is told to `pass` too. */
  asks(thread: number, operation: Opcode): void {
    if (this.walks.size === 0) return;
    const walk = this.walks.get(thread);
    if (walk === undefined || operation === 'GETATTR') return;
    if (!STEPS.has(operation)) this.walks.delete(thread);
    else if (operation === 'LOOKUP') walk.step = { did: 'looked up', found: undefined, leadsOn: false };
    else if (operation === 'READLINK') walk.turned = true;
    walk.lastMs = this.options.clock.monotonicMs();
  }

  /** A thread's look-up found something. */
  found(thread: number, nodeid: number, mode: number): void {
    const walk = this.walks.size === 0 ? undefined : this.walks.get(thread);
    if (walk?.step.did !== 'looked up') return;
    walk.step.found = nodeid;
    walk.step.leadsOn = isDirectory(mode);
    if (isSymlink(mode)) walk.turned = true;
  }

  /** A thread asks for the attributes of a directory whose gate is closed. GateRefusal: it is to walk once more. */
  async pass(thread: number, directory: InodeId, nodeid: number): Promise<void> {
    const { gates, threads } = this.options;
    if (!gates.refuses(directory) && (await this.opensWithin(directory, PATIENCE_MS))) return;
    let call = parseSystemCall(thread === 0 ? '' : threads.systemCall(thread));
    for (let look = 1; call.kind === 'running' && look < LOOKS_AT_RUNNING; look++) {
      if (await this.opensWithin(directory, FALLS_ASLEEP_MS)) return;
      call = parseSystemCall(threads.systemCall(thread));
    }
    switch (call.kind) {
      case 'descriptor':
        return;
      case 'running':
      case 'unknown':
        await this.opensWithin(directory, PATIENCE_OF_STRANGERS_MS);
        return;
      default:
        return this.passInCall(thread, directory, nodeid, call);
    }
  }

  private async passInCall(thread: number, directory: InodeId, nodeid: number, call: SystemCall): Promise<void> {
    const { gates } = this.options;
    const second = this.secondPass(thread, nodeid, call);
    if (second !== undefined) {
      // It asks for every name that it walks by, and not for the one that it is to change: that the kernel must have let go of.
      const waits = second === 'on its way' && call.kind === 'old' && !gates.refuses(directory);
      if (waits) await this.opensWithin(directory, PATIENCE_OF_CHANGES_MS);
      return;
    }
    if (call.kind === 'path' && !gates.refuses(directory)) {
      if (await this.opensWithin(directory, PATIENCE_OF_WALKS_MS)) return;
    }
    this.walksAgain(thread, call);
    if (call.opens) this.options.onOpenRefused(thread);
    throw new GateRefusal(directory);
  }

  /** Whether the thread is in its second walk: on its way through the directory, or where it may hold that. */
  private secondPass(thread: number, nodeid: number, call: SystemCall): 'on its way' | 'inside' | undefined {
    const walk = this.walks.get(thread);
    const nowMs = this.options.clock.monotonicMs();
    if (walk?.identity !== call.identity || walk.lastMs < nowMs - SECOND_WALK_MS) return undefined;
    const { step } = walk;
    const isFirst = step.did === 'was refused';
    const cameByName = step.did === 'looked up' && step.found === nodeid;
    // Where a name is made or changed it asks once more, holding the directory: if it was refused there before, it is not again.
    const mayPass = isFirst || cameByName || call.kind !== 'path' || this.mayTurnBack(thread, walk, call);
    if (!mayPass) return undefined;
    walk.lastMs = nowMs;
    walk.step = { did: 'other' };
    return isFirst || cameByName ? 'on its way' : 'inside';
  }

  /** Whether a second walk may have come to a directory without looking it up. */
  private mayTurnBack(thread: number, walk: SecondWalk, call: SystemCall): boolean {
    if (walk.turned) return true;
    // Who looked up what leads no further is at its end.
    if (walk.step.did === 'looked up' && !walk.step.leadsOn) return false;
    return mayTurnBack(this.options.threads, thread, call);
  }

  /** The thread is told ESTALE for another reason. */
  toldStale(thread: number): void {
    if (thread === 0) return;
    const call = parseSystemCall(this.options.threads.systemCall(thread));
    if (call.kind !== 'unknown' && call.kind !== 'running') this.walksAgain(thread, call);
  }

  private walksAgain(thread: number, { identity }: SystemCall): void {
    this.walks.delete(thread);
    for (const oldest of this.walks.keys()) {
      if (this.walks.size < MAX_SECOND_LOOKS) break;
      this.walks.delete(oldest);
    }
    const lastMs = this.options.clock.monotonicMs();
    this.walks.set(thread, { identity, lastMs, step: { did: 'was refused' }, turned: false });
  }

  /** Whether the gate is open, or opens in time. */
  private async opensWithin(directory: InodeId, ms: number): Promise<boolean> {
    const { clock, gates } = this.options;
    if (!gates.isClosed(directory)) return true;
    const late = deferred<boolean>();
    const timer = clock.setTimer(ms, () => late.resolve(false));
    try {
      return await Promise.race([gates.opened(directory).then(() => true), late.promise]);
    } finally {
      timer.cancel();
    }
  }
}
