/**
 * A network between simulated hosts. A connection is reliable and ordered while it lasts, as a TCP connection is; what
 * goes wrong shows as delay, as silence (a partition holds messages back until it heals or the ends give up), as a
 * break that loses what was not delivered, or as an end that vanished with its machine.
 */
import { CairnError } from '../../../src/core/errors.js';
import type { Random } from '../../../src/core/random.js';
import type { Listener, Network, Transport } from '../../../src/protocol/transport.js';
import type { MachineTime } from './machine-time.js';
import type { SimulatedClock } from './simulated-clock.js';
import type { Trace } from '../world/trace.js';
import { SimulatedTransport } from './simulated-transport.js';

/** One way between two hosts. */
interface Link {
  latencyUs: number;
  bytesPerUs: number;
  isBlocked: boolean;
  /** Connections are refused: what a firewall's rule or a full table does. */
  isRefused: boolean;
  /** When the last message arrived. */
  arrivedUs: number;
}

/** One life of a process on a host; what belongs to a dead one does nothing any more. */
export interface Incarnation {
  readonly host: string;
  /** Of its machine. */
  readonly time: MachineTime;
  isAlive: boolean;
}

interface BoundPort {
  readonly owner: Incarnation;
  readonly onConnection: (transport: Transport) => void;
}

const NORMAL_BYTES_PER_US = 1000;
const FIRST_EPHEMERAL_PORT = 40_000;

export class SimulatedNetwork {
  private readonly links = new Map<string, Link>();
  private readonly ports = new Map<string, BoundPort>();
  private readonly ends = new Set<SimulatedTransport>();
  /** Hosts whose machine is off: nothing answers there, not even with a refusal. */
  private readonly downHosts = new Set<string>();
  /** Hosts that stand still: nothing comes and nothing goes, and what is sent to them waits. */
  private readonly frozenHosts = new Set<string>();
  private nextPort = FIRST_EPHEMERAL_PORT;
  private nextConnection = 1;
  /** Called with the hosts of each message before it arrives. True: it is lost, and its connection breaks. */
  onMessage: ((from: string, to: string) => boolean) | undefined;

  constructor(
    readonly clock: SimulatedClock,
    readonly random: Random,
    readonly trace: Trace,
  ) {}

  forProcess(owner: Incarnation): Network {
    return {
      listen: async (address, onConnection) => this.listen(owner, address, onConnection),
      connect: (address, timeoutMs) => this.connect(owner, address, timeoutMs),
    };
  }

  /** Asked before each message; 'lose': it is lost, and its connection breaks. */
  onSend: ((from: string, to: string) => 'lose' | undefined) | undefined;

  link(from: string, to: string): Link {
    const key = `${from}>${to}`;
    let link = this.links.get(key);
    if (link === undefined) {
      const latencyUs = 30 + this.random.below(300);
      link = { latencyUs, bytesPerUs: NORMAL_BYTES_PER_US, isBlocked: false, isRefused: false, arrivedUs: 0 };
      this.links.set(key, link);
    }
    return link;
  }

  /** Nothing sent from `from` reaches `to` until `heal`. Both ways unless `oneWay`. */
  partition(from: string, to: string, oneWay = false): void {
    this.trace.add(`fault partition ${from} ${oneWay ? '>' : '<>'} ${to}`);
    this.link(from, to).isBlocked = true;
    if (!oneWay) this.link(to, from).isBlocked = true;
  }

  /** Whether anything gets from one to the other now. */
  isBlocked(from: string, to: string): boolean {
    return this.link(from, to).isBlocked || this.frozenHosts.has(from) || this.frozenHosts.has(to);
  }

  /** For how long `to` has got no message from `from`. */
  silentMs(from: string, to: string): number {
    return (this.clock.nowUs - this.link(from, to).arrivedUs) / 1000;
  }

  /**
   * All connections between the two are reset, and new ones are refused, until `heal`. Returns how many there were.
   */
  refuse(one: string, two: string): number {
    this.trace.add(`fault refuse ${one} <> ${two}`);
    this.link(one, two).isRefused = true;
    this.link(two, one).isRefused = true;
    const broken = [...this.ends].filter((end) => end.owner.host === one && end.remoteHost === two);
    for (const end of broken) end.loseEverything();
    return broken.length;
  }

  freeze(host: string): void {
    this.frozenHosts.add(host);
  }

  thaw(host: string): void {
    this.frozenHosts.delete(host);
    for (const end of this.ends) end.resume();
  }

  /** Makes the link slow, both ways. */
  slow(one: string, two: string, factor: number): void {
    this.trace.add(`fault slow ${one} <> ${two} x${factor}`);
    for (const link of [this.link(one, two), this.link(two, one)]) {
      link.latencyUs *= factor;
      link.bytesPerUs = NORMAL_BYTES_PER_US / factor;
    }
  }

  /** Ends every partition and slowness between the two hosts; what was held back goes on. */
  heal(one: string, two: string): void {
    this.trace.add(`heal ${one} <> ${two}`);
    for (const link of [this.link(one, two), this.link(two, one)]) {
      link.isBlocked = false;
      link.isRefused = false;
      link.bytesPerUs = NORMAL_BYTES_PER_US;
      link.latencyUs = 30 + this.random.below(300);
    }
    for (const end of this.ends) end.resume();
  }

  healAll(): void {
    for (const [key, link] of this.links) {
      const [one = '', two = ''] = key.split('>');
      if (link.isBlocked || link.isRefused || link.bytesPerUs !== NORMAL_BYTES_PER_US) this.heal(one, two);
    }
  }

  /** Breaks one connection between the hosts: what is under way is lost, both ends learn of it. False: there is none. */
  breakConnection(one: string, two: string): boolean {
    const between = [...this.ends].filter((end) => end.owner.host === one && end.remoteHost === two);
    const end = between[this.random.below(Math.max(1, between.length))];
    if (end === undefined) return false;
    this.trace.add(`fault break ${end.label}`);
    end.loseEverything();
    return true;
  }

  /** The process is gone; its kernel closes its connections. */
  processKilled(owner: Incarnation): void {
    this.unbind(owner);
    for (const end of this.ends) if (end.owner === owner) end.abandon({ tellPeer: true });
  }

  /** The machine is gone: nobody tells the peers. */
  hostDown(owner: Incarnation): void {
    this.unbind(owner);
    this.downHosts.add(owner.host);
    for (const end of this.ends) if (end.owner === owner) end.abandon({ tellPeer: false });
  }

  hostUp(host: string): void {
    this.downHosts.delete(host);
  }

  isDown(host: string): boolean {
    return this.downHosts.has(host);
  }

  forget(end: SimulatedTransport): void {
    this.ends.delete(end);
  }

  private unbind(owner: Incarnation): void {
    for (const [address, port] of this.ports) if (port.owner === owner) this.ports.delete(address);
  }

  private listen(owner: Incarnation, asked: string, onConnection: (transport: Transport) => void): Listener {
    const [, portText = '0'] = asked.split(':');
    const port = portText === '0' ? this.nextPort++ : Number(portText);
    const address = `${owner.host}:${port}`;
    if (this.ports.has(address)) throw new CairnError('EBUSY', `${address} is taken`);
    this.ports.set(address, { owner, onConnection });
    return {
      address,
      close: async () => {
        if (this.ports.get(address)?.owner === owner) this.ports.delete(address);
      },
    };
  }

  private connect(owner: Incarnation, address: string, timeoutMs: number): Promise<Transport> {
    const host = address.split(':')[0] ?? address;
    const there = this.link(owner.host, host);
    const back = this.link(host, owner.host);
    return new Promise((resolve, reject) => {
      let isDone = false;
      const finish = (outcome: () => void): void => {
        owner.time.whenAwake(() => {
          if (isDone || !owner.isAlive) return;
          isDone = true;
          timeout.cancel();
          outcome();
        });
      };
      const refuse = (why: string): void => finish(() => reject(new CairnError('UNAVAILABLE', `${address}: ${why}`)));
      const timeout = this.clock.schedule(timeoutMs * 1000, () => refuse('no answer in time'));
      this.clock.schedule(there.latencyUs + this.random.below(50), () => {
        // A partition swallows the call, and a machine that is off says nothing.
        if (this.isBlocked(owner.host, host) || this.isBlocked(host, owner.host) || this.isDown(host)) return;
        this.clock.schedule(back.latencyUs, () => {
          if (isDone) return;
          if (there.isRefused) {
            refuse('connection refused');
            return;
          }
          // Nobody takes a call while the machine stands still.
          if (this.frozenHosts.has(owner.host) || this.frozenHosts.has(host)) return;
          const port = this.ports.get(address);
          if (port === undefined) {
            refuse('connection refused');
            return;
          }
          if (!owner.isAlive) return;
          const [near, far] = this.connectionPair(owner, port.owner, address);
          this.trace.add(`connect ${near.label}`);
          finish(() => resolve(near));
          port.onConnection(far);
        });
      });
    });
  }

  private connectionPair(
    caller: Incarnation,
    server: Incarnation,
    address: string,
  ): [SimulatedTransport, SimulatedTransport] {
    const number = this.nextConnection++;
    const near = new SimulatedTransport(this, caller, server.host, `${caller.host}>${server.host}#${number}`, address);
    const from = `${caller.host}:${FIRST_EPHEMERAL_PORT + (number % 20_000)}`;
    const far = new SimulatedTransport(this, server, caller.host, `${server.host}>${caller.host}#${number}`, from);
    near.join(far);
    far.join(near);
    this.ends.add(near).add(far);
    return [near, far];
  }
}
