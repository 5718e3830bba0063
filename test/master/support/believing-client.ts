/**
 * A client that believes what it is told, by the rules of holdings: while it has the holding with that number, its session is valid, and
 * no recall has named it. What it believes is compared with the state of the master at any moment.
 */
import { CairnError } from '../../../src/core/errors.js';
import { inodeId } from '../../../src/core/ids.js';
import { HOLDING_VALID_MS } from '../../../src/core/limits.js';
import type { StateReader } from '../../../src/master/state/state.js';
import { findEntry } from '../../../src/master/tables/dentries.js';
import { attributesOf, readInode } from '../../../src/master/tables/inodes.js';
import { connectPeer } from '../../../src/protocol/endpoint.js';
import type { Attributes, DirectoryEntry, Recall } from '../../../src/protocol/generated/messages.js';
import { CLIENT_METHODS, MASTER_METHODS } from '../../../src/protocol/methods.js';
import type { MethodDefinition } from '../../../src/protocol/methods.js';
import type { Peer } from '../../../src/protocol/rpc.js';
import type { MasterCluster } from './master-cluster.js';

const m = MASTER_METHODS;
export const CALLER = { uid: 0, gid: 0, groups: [] };

/** Under the holding of `by` with this number. */
interface Belief<T> {
  readonly value: T;
  readonly by: number;
  readonly grant: number;
}

/** What stat(2) shows, and by which holding. */
const shown = (a: Attributes | ReturnType<typeof attributesOf>): string =>
  JSON.stringify([a.mode, a.nlink, a.uid, a.gid, a.size, a.allocatedBytes, a.mtime, a.ctime, a.heldBy]);
/** What stands for the published content. */
const contentOf = (a: Attributes | ReturnType<typeof attributesOf>): string =>
  JSON.stringify([a.size, a.mtime, a.layoutVersion]);

export class BelievingClient {
  readonly recalled: Recall[] = [];
  readonly holdings = new Map<number, number>();
  private readonly names = new Map<string, Belief<number | undefined>>();
  private readonly attributes = new Map<number, Belief<string>>();
  private readonly contents = new Map<number, Belief<string>>();
  private readonly listings = new Map<number, Belief<string>>();
  private set = 0;
  private sessionId = 0;
  private token = Buffer.alloc(0);
  private sequence = 0;
  private validUntilMs = -Infinity;
  /** Its own changes that have no answer: it takes nothing in. */
  private changing = 0;
  /** Grows with each of them. */
  private changes = 0;
  peer!: Peer;

  constructor(
    readonly cluster: MasterCluster,
    /** Time that the client takes to answer a recall. */
    private readonly recallMs: () => number = () => 0,
  ) {}

  /** Opens or resumes the session, without turning the clock. */
  async connect(): Promise<void> {
    const service = {
      table: CLIENT_METHODS,
      handlers: {
        recall: async ({ items }: { items: Recall[] }) => {
          // What was asked before is not taken in; what is believed, as by a kernel, goes with the answer.
          this.recalled.push(...items);
          const delayMs = this.recallMs();
          if (delayMs > 0) await new Promise<void>((done) => this.cluster.clock.setTimer(delayMs, done));
          for (const item of items) this.forget(item);
          return { reply: {} };
        },
      },
    };
    const known = this.sessionId;
    const peer = await connectPeer(this.cluster.endpoint('client'), 'master:1', { role: 'master', service });
    const sentMs = this.cluster.clock.monotonicMs();
    const request = { sessionId: known, clientName: 'believer', token: this.token, holds: true };
    const { reply } = await peer.call(m.openSession, request);
    const isOther = reply.holdings !== this.set;
    if (!reply.resumed) {
      this.token = Buffer.from(reply.token);
      this.sequence = 0;
    }
    this.sessionId = reply.sessionId;
    this.set = reply.holdings;
    const told = reply.resumed && isOther ? [...this.holdings.keys()] : [];
    const before = new Map(this.holdings);
    // Nothing of another set stands, unless it is granted again.
    if (isOther) this.holdings.clear();
    if (known !== 0) {
      const reclaimed = await peer.call(m.reclaim, { holdings: told, done: true });
      told.forEach((inode, at) => this.regrant(inode, before.get(inode) ?? 0, reclaimed.reply.grants[at] ?? 0));
    }
    if (isOther) this.sweep();
    this.peer = peer;
    this.validUntilMs = sentMs + HOLDING_VALID_MS;
  }

  async keep(): Promise<void> {
    const sentMs = this.cluster.clock.monotonicMs();
    await this.peer.call(m.keepSession, { ackedBelow: 0 });
    this.validUntilMs = Math.max(this.validUntilMs, sentMs + HOLDING_VALID_MS);
  }

  async release(inode: number): Promise<void> {
    const grant = this.holdings.get(inode);
    if (grant === undefined) return;
    this.holdings.delete(inode);
    this.sweep();
    await this.peer.call(m.keepSession, { ackedBelow: 0, released: [{ inode, grant }] });
  }

  async lookup(parent: number, name: string): Promise<void> {
    const since = this.now();
    const { reply } = await this.peer.call(m.lookup, { caller: CALLER, parent, name: Buffer.from(name), hold: true });
    const inode = reply.missing ? undefined : reply.attributes?.inode;
    this.take(this.names, `${parent}/${name}`, inode, { by: parent, grant: reply.nameGrant }, () =>
      this.isNamed(since, parent, (item) => item.names.some((other) => Buffer.from(other).toString() === name)),
    );
    this.takeAttributes(since, reply.attributes);
  }

  async getAttributes(inode: number): Promise<void> {
    const since = this.now();
    const { reply } = await this.peer.call(m.getAttributes, { inode, hold: true });
    this.takeAttributes(since, reply);
  }

  async list(inode: number): Promise<void> {
    const since = this.now();
    const request = { caller: CALLER, inode, maxEntries: 100, withAttributes: true, hold: true, noAtime: true };
    const { reply } = await this.peer.call(m.readDirectory, request);
    const listing = namesOf(reply.entries);
    this.take(this.listings, inode, listing, { by: inode, grant: reply.grant }, () =>
      this.isNamed(since, inode, (item) => item.self || item.names.length > 0),
    );
    for (const entry of reply.entries) {
      this.takeAttributes(since, entry.attributes);
      const name = Buffer.from(entry.name).toString();
      this.take(this.names, `${inode}/${name}`, entry.inode, { by: inode, grant: reply.grant }, () =>
        this.isNamed(since, inode, (item) => item.names.some((other) => Buffer.from(other).toString() === name)),
      );
    }
  }

  async open(parent: number, name: string): Promise<void> {
    const since = this.now();
    const request = { caller: CALLER, parent, name: Buffer.from(name), flags: 1, hold: true };
    const { reply } = await this.peer.call(m.open, request);
    this.takeAttributes(since, reply.attributes);
  }

  /** A change of its own: it knows itself what to forget, here all. `told`: attributes in the answer. */
  async change<Q, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    request: QI,
    told: (reply: R) => (Attributes | null)[] = () => [],
  ): Promise<R> {
    const operation = { sequence: ++this.sequence, ackedBelow: 1 };
    this.changing++;
    this.changes++;
    this.forgetAll();
    const since = { recalls: this.recalled.length, changes: this.changes };
    let reply: R;
    try {
      ({ reply } = await this.peer.call(method, { ...request, operation }, { timeoutMs: 60_000 }));
    } finally {
      this.changing--;
      this.forgetAll();
    }
    for (const attributes of told(reply)) this.takeAttributes(since, attributes);
    return reply;
  }

  /** Of what it believes, what is not so; `null`s of inodes that are gone for good do not count. */
  differences(state: StateReader): string[] {
    const found: string[] = [];
    if (this.cluster.clock.monotonicMs() >= this.validUntilMs) return found;
    for (const [key, { value }] of this.names) {
      const [parent = '', name = ''] = key.split('/');
      const now = findEntry(state, inodeId(Number(parent)), Buffer.from(name))?.inode;
      if (now !== value) found.push(`name ${key} leads to ${now}, not ${value}`);
    }
    for (const [inode, { value }] of this.attributes) {
      const record = readInode(state, inodeId(inode));
      const now = record && shown(attributesOf(inodeId(inode), record));
      if (now !== undefined && now !== value) found.push(`attributes of ${inode} are ${now}, not ${value}`);
    }
    for (const [inode, { value }] of this.contents) {
      const record = readInode(state, inodeId(inode));
      const now = record && contentOf(attributesOf(inodeId(inode), record));
      if (now !== undefined && now !== value) found.push(`the content of ${inode} is ${now}, not ${value}`);
    }
    for (const [inode, { value }] of this.listings) {
      const names: string[] = [];
      const prefix = `D${String.fromCharCode(...[0, 0, 0, 0, 0, inode >> 8, inode & 255])}`;
      for (const [key] of state.range({ start: prefix, end: `${prefix}\u00ff` })) names.push(key.slice(prefix.length));
      if (names.sort().join() !== value) found.push(`directory ${inode} has ${names.join()}, not ${value}`);
    }
    return found;
  }

  get beliefs(): number {
    return this.names.size + this.attributes.size + this.contents.size + this.listings.size;
  }

  // ---- What it believes -------------------------------------------------------------------------------

  private now(): { readonly recalls: number; readonly changes: number } {
    return { recalls: this.recalled.length, changes: this.changes };
  }

  private takeAttributes(since: { recalls: number; changes: number }, attributes: Attributes | null): void {
    if (attributes === null) return;
    const { inode, heldBy: by, grant } = attributes;
    const isNamed = (of: (item: Recall) => boolean): boolean => this.isNamed(since, undefined, of);
    const about = (item: Recall): boolean =>
      item.attributes.includes(inode) || (item.inode === inode && item.self) || (item.inode === by && item.whole);
    if ((attributes.mode & 0o170000) === 0o100000) {
      this.take(this.contents, inode, contentOf(attributes), { by, grant }, () =>
        isNamed((item) => about(item) || item.contents.includes(inode)),
      );
    }
    this.take(this.attributes, inode, shown(attributes), { by, grant }, () => isNamed(about));
  }

  /** Whether a recall since then, of the holding `by` or of any, is about it; or a change of its own is. */
  private isNamed(
    since: { readonly recalls: number; readonly changes: number },
    by: number | undefined,
    of: (item: Recall) => boolean,
  ): boolean {
    if (this.changing > 0 || this.changes !== since.changes) return true;
    const items = this.recalled.slice(since.recalls).filter(({ inode }) => by === undefined || inode === by);
    return items.some((item) => item.whole || of(item));
  }

  private take<K, V>(
    into: Map<K, Belief<V>>,
    key: K,
    value: V,
    { by, grant }: { readonly by: number; readonly grant: number },
    isNamed: () => boolean,
  ): void {
    if (grant === 0 || isNamed()) return;
    const had = this.holdings.get(by);
    if (had !== grant) {
      if (had !== undefined && had > grant) return;
      this.holdings.set(by, grant);
      this.sweep();
    }
    into.set(key, { value, by, grant });
  }

  private forget(item: Recall): void {
    const { inode, whole, self, names, attributes, contents } = item;
    if (whole) {
      this.holdings.delete(inode);
      this.sweep();
      return;
    }
    if (self) {
      this.attributes.delete(inode);
      this.listings.delete(inode);
    }
    for (const name of names) this.names.delete(`${inode}/${Buffer.from(name).toString()}`);
    for (const one of attributes) this.attributes.delete(one);
    for (const one of contents) this.contents.delete(one);
  }

  private forgetAll(): void {
    for (const all of [this.names, this.attributes, this.contents, this.listings]) all.clear();
  }

  private regrant(inode: number, before: number, grant: number): void {
    if (grant === 0) return;
    this.holdings.set(inode, grant);
    const renew = <K, V>(all: Map<K, Belief<V>>): void => {
      for (const [key, belief] of all)
        if (belief.by === inode && belief.grant === before) all.set(key, { ...belief, grant });
    };
    renew(this.names);
    renew(this.attributes);
    renew(this.contents);
    renew(this.listings);
  }

  /** Forgets what is under no holding that it has. */
  private sweep(): void {
    const sweep = <K, V>(all: Map<K, Belief<V>>): void => {
      for (const [key, { by, grant }] of all) if (this.holdings.get(by) !== grant) all.delete(key);
    };
    sweep(this.names);
    sweep(this.attributes);
    sweep(this.contents);
    sweep(this.listings);
  }
}

const namesOf = (entries: readonly DirectoryEntry[]): string =>
  entries
    .map(({ name }) => Buffer.from(name).toString())
    .sort()
    .join();

export const isExpected = (error: unknown): boolean => error instanceof CairnError && error.code !== 'INTERNAL';
