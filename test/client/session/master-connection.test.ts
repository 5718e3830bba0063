/** The client's connection to the master, over peers that answer when the test says so. */
import t from 'tap';
import { Holdings, Moments } from '../../../src/client/session/holdings.js';
import { MasterConnection } from '../../../src/client/session/master-connection.js';
import { CairnError } from '../../../src/core/errors.js';
import { SeededRandom } from '../../../src/core/random.js';
import { deferred, type Deferred } from '../../../src/core/sync.js';
import { silentLogger, type Logger } from '../../../src/core/logging/logger.js';
import { MASTER_METHODS, type MethodDefinition } from '../../../src/protocol/methods.js';
import type { Peer } from '../../../src/protocol/rpc.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

type AnyMethod = MethodDefinition<unknown, unknown, unknown, unknown>;

const names = new Map(Object.entries(MASTER_METHODS).map(([name, { number }]) => [number, name]));
const SESSION = { sessionId: 5, clusterId: 'c', token: Buffer.alloc(0), mark: null, masterTime: null };
const OPENED = { ...SESSION, resumed: true, epoch: 1, lossEpoch: 0, partedFrom: 0, partedBelow: 0 };

class FakePeer {
  readonly address = 'master:1';
  readonly calls: string[] = [];
  /** The answer to `openSession` waits for it. */
  mayOpen: Promise<void> = Promise.resolve();
  isClosed = false;
  /** Of all calls. */
  failing: CairnError | undefined;
  private readonly ended: Deferred<string> = deferred();

  get closed(): Promise<string> {
    return this.ended.promise;
  }

  async call(method: AnyMethod): Promise<{ reply: unknown }> {
    const name = names.get(method.number) ?? '';
    this.calls.push(name);
    if (name === 'openSession') await this.mayOpen;
    if (this.failing !== undefined) throw this.failing;
    return { reply: name === 'openSession' ? OPENED : { lostAppends: [] } };
  }

  close(reason: string): void {
    this.isClosed = true;
    this.ended.resolve(reason);
  }
}

/** A client whose connections go to these peers in turn; an Error is the failure of that attempt. */
function connectTo(
  peers: (FakePeer | Error)[],
  clock = new ManualClock(),
  logger = silentLogger,
): Promise<MasterConnection> {
  return MasterConnection.connect(
    {
      ...{ clock, random: new SeededRandom(1), logger, clientName: 'test' },
      ...{ opens: () => [], locks: () => [], appends: () => [], lockLosses: () => 0 },
      ...{ onOperationsLost: () => undefined, onReclaimed: () => undefined, onSessionLost: () => undefined },
      ...{
        onStale: () => undefined,
        onDoubt: () => undefined,
        holdings: new Holdings(clock, new Moments(), false),
        onHoldingsEnded: () => undefined,
      },
      connect: () => {
        const peer = peers.shift();
        return peer instanceof FakePeer
          ? Promise.resolve(peer as unknown as Peer)
          : Promise.reject(peer ?? new Error());
      },
    },
    1_000,
  );
}

const turn = (): Promise<unknown> => new Promise(setImmediate);

t.test('a client that closes while it comes back ends the session that it has just resumed', async (t) => {
  const [first, second] = [new FakePeer(), new FakePeer()];
  const errors: string[] = [];
  const logger: Logger = { ...silentLogger, error: (_about: object, message?: string) => errors.push(message ?? '') };
  const connection = await connectTo([first, second], new ManualClock(), logger);
  const mayOpen = deferred<void>();
  second.mayOpen = mayOpen.promise;
  first.close('broken');
  while (second.calls.length === 0) await turn();
  const closed = connection.close();
  mayOpen.resolve();
  await closed;
  t.equal(second.calls.at(-1), 'closeSession', 'what it has open and locked is free at once');
  t.ok(second.isClosed);
  t.same(errors, [], 'nobody refused it');
});

t.test('a client that closes before it tries to come back once more tries that, and ends the session', async (t) => {
  const [first, second] = [new FakePeer(), new FakePeer()];
  const peers = [first, new CairnError('UNAVAILABLE', 'not there'), second];
  const clock = new ManualClock();
  const connection = await connectTo(peers, clock);
  first.close('broken');
  while (peers.length > 1) await turn();
  await turn();
  const closed = connection.close();
  clock.advance(1_000);
  await closed;
  t.equal(second.calls.at(-1), 'closeSession');
  t.ok(second.isClosed);
});

t.test('a client whose connection breaks while it says that it closes says it again', async (t) => {
  const [first, second] = [new FakePeer(), new FakePeer()];
  const connection = await connectTo([first, second]);
  first.failing = new CairnError('DISCONNECTED', 'broken');
  await connection.close();
  t.equal(second.calls.at(-1), 'closeSession');
});

t.test('a client that closes without a master tries once', async () => {
  const first = new FakePeer();
  const clock = new ManualClock();
  const connection = await connectTo([first], clock);
  first.close('broken');
  await turn();
  const closed = connection.close();
  clock.advance(1_000);
  await closed;
});
