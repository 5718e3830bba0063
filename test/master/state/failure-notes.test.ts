/** What a start takes the note of an earlier one for. */
import t from 'tap';
import { CairnError } from '../../../src/core/errors.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import type { Logger } from '../../../src/core/logging/logger.js';
import { FailureNotes } from '../../../src/master/state/failure-notes.js';
import { keys } from '../../../src/master/state/keys.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

const stateOf = (clusterId: string) => ({
  get: (key: string) => (key === keys.meta('cluster-id') ? Buffer.from(clusterId) : undefined),
});
const ours = stateOf('aa');

class Lines {
  readonly errors: string[] = [];
  readonly logger: Logger = { ...silentLogger, error: (_, message) => void this.errors.push(message) };
}

function begin(bootNotes: MemoryNotes, options: { bootId?: string; logger?: Logger } = {}): FailureNotes {
  const { bootId = 'this boot', logger = silentLogger } = options;
  return new FailureNotes({ bootNotes, bootId, directory: '/log', logger });
}

function found(bootNotes: MemoryNotes, state = ours, bootId = 'this boot'): number | undefined {
  const notes = begin(bootNotes, { bootId });
  notes.find(state);
  return notes.writtenUpTo;
}

t.test('a note tells the next start of that cluster, in that boot, until it is removed', async (t) => {
  const machine = new MemoryNotes();
  t.equal(found(machine), undefined);
  const first = begin(machine);
  first.find(ours);
  first.leave(ours, 3, 70);
  t.equal(found(machine), 70);
  t.equal(found(machine, stateOf('bb')), undefined, 'another master of this machine');
  t.equal(found(machine, ours, 'another boot'), undefined);
  const next = begin(machine);
  next.find(ours);
  next.leave(ours, 4, 20);
  next.leave(ours, 4, undefined);
  t.equal(found(machine), 70, 'a start that comes to nothing changes nothing');
  next.remove();
  t.equal(found(machine), undefined);
  next.leave(ours, 4, 90);
  t.equal(found(machine), 90, 'and when its epoch began, it leaves its own');
});

t.test('what is not known, or cannot be read, may be anything', async (t) => {
  const machine = new MemoryNotes();
  begin(machine).leave(ours, 0, undefined);
  t.equal(found(machine), Infinity);
  const [name = ''] = machine.notes.keys();
  for (const text of ['', '{"bootId":"this b', '7', 'null', '{}', '{"bootId":"this boot","sequence":"7"}']) {
    machine.notes.set(name, text);
    t.equal(found(machine), Infinity, text);
  }
  machine.read = () => {
    throw new CairnError('EIO', 'a planted fault');
  };
  t.equal(found(machine), Infinity, 'EIO');
});

t.test('a note that cannot be left is an error that says what to do', async (t) => {
  const machine = new MemoryNotes();
  const { errors, logger } = new Lines();
  machine.write = () => {
    throw new CairnError('ENOSPC', 'a planted fault');
  };
  begin(machine, { logger }).leave(ours, 1, 5);
  t.match(errors, [/reboot the machine before the master starts/]);
});
