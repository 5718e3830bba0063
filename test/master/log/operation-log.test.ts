/** The operation log: shared flushes, segments, torn tails, damage in the middle, and disks that fail. */
import t from 'tap';
import type { Test } from 'tap';
import { SeededRandom } from '../../../src/core/random.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import type { CairnError } from '../../../src/core/errors.js';
import { RecordEncoder, readFrame, sequenceOf } from '../../../src/master/log/log-record.js';
import { OperationLog } from '../../../src/master/log/operation-log.js';
import type { Key, NewValue } from '../../../src/master/store/store.js';
import { LogRecord } from '../../../src/protocol/generated/messages.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { seededRandom } from '../../support/seed.js';

interface Opened {
  readonly log: OperationLog;
  /** Sequences that were replayed. */
  readonly replayed: number[];
  readonly failures: CairnError[];
}

async function open(disk: CrashDisk, checkpoint = 0, segmentBytes?: number): Promise<Opened> {
  const [replayed, failures]: [number[], CairnError[]] = [[], []];
  const log = await OperationLog.open({
    disk,
    directory: 'log',
    logger: silentLogger,
    checkpoint,
    apply: (record) => void replayed.push(record.sequence),
    onFailure: (error) => failures.push(error),
    ...(segmentBytes === undefined ? {} : { segmentBytes }),
  });
  return { log, replayed, failures };
}

const change = (text: string): ReadonlyMap<Key, NewValue> => new Map([[`I${text}`, Buffer.from(text)]]);

function newDisk(): CrashDisk {
  return new CrashDisk(new SeededRandom(7));
}

async function settle(): Promise<void> {
  for (let i = 0; i < 100; i++) await Promise.resolve();
}

/** A log with records 1 to `count`, of which those up to `durable` are synced; its process is dead. */
async function written(count: number, durable: number): Promise<{ disk: CrashDisk; path: string }> {
  const disk = newDisk();
  const { log } = await open(disk);
  for (let i = 1; i <= count; i++) {
    log.append(1, change(`record ${i}`));
    if (i === durable) await log.durable();
  }
  const path = disk.paths()[0] ?? '';
  disk.kill();
  return { disk, path };
}

/** Where record `sequence` begins in a segment. */
function offsetOf(bytes: Buffer, sequence: number): number {
  for (let at = 64; ;) {
    const frame = readFrame(bytes, at);
    if (frame.kind !== 'record') throw new Error(`no record ${sequence}`);
    if (sequenceOf(frame.payload) === sequence) return at;
    at = frame.end;
  }
}

void t.test('a record as bytes is what the schema says', (test) => {
  const random = seededRandom(test);
  const encoder = new RecordEncoder();
  for (let i = 0; i < 300; i++) {
    const changes = new Map<Key, NewValue>();
    for (let n = random.below(6); n >= 0; n--) {
      const value = random.below(4) === 0 ? null : random.bytes(pickLength(random));
      changes.set(random.bytes(1 + random.below(300)).toString('latin1'), value);
    }
    const head = { sequence: 1 + random.below(2 ** 32) * 2 ** random.below(20), epoch: random.below(300), flushed: 0 };
    const frame = readFrame(encoder.encode(head, changes), 0);
    if (frame.kind !== 'record') throw new Error(frame.kind);
    test.equal(sequenceOf(frame.payload), head.sequence);
    const decoded = LogRecord.decode(frame.payload);
    test.strictSame([decoded.sequence, decoded.epoch, decoded.flushed], [head.sequence, head.epoch, 0]);
    const seen = decoded.changes.map(({ key, value }) => [
      Buffer.from(key).toString('latin1'),
      value === null ? null : Buffer.from(value).toString('hex'),
    ]);
    test.strictSame(
      seen,
      [...changes].map(([key, value]) => [key, value === null ? null : Buffer.from(value).toString('hex')]),
    );
  }
  test.end();
});

function pickLength(random: SeededRandom): number {
  return [0, 5, 127, 128, 20_000, 70_000][random.below(6)] ?? 0;
}

void t.test('P1: waiters share a flush, and none resolves before its record is synced', async (test) => {
  let syncs = 0;
  const disk = newDisk();
  const { log } = await open(disk);
  const opened = disk.open.bind(disk);
  test.ok(opened);
  log.append(1, change('a'));
  const first = log.durable().then(() => syncs++);
  await Promise.resolve();
  const waiters = Array.from({ length: 50 }, (_, i) => {
    log.append(1, change(`b${i}`));
    return log.durable();
  });
  await Promise.all([first, ...waiters]);
  const all = new Set(waiters);
  test.ok(all.size <= 2, `${all.size} flushes for 50 waiters`);
  disk.powerLoss();
  const again = await open(disk);
  test.equal(again.replayed.length, 51);
  await again.log.close();
});

void t.test('segments roll, and those behind the checkpoint are deleted', async (test) => {
  const disk = newDisk();
  const { log } = await open(disk, 0, 500);
  for (let i = 1; i <= 100; i++) {
    log.append(1, change(`record ${i}`));
    await settle();
  }
  test.ok(disk.paths().length > 5, `${disk.paths().length} segments`);
  await log.cut(90);
  test.ok(disk.paths().length <= 4, `${disk.paths().length} segments after the cut`);
  disk.kill();
  const { log: again, replayed } = await open(disk, 90, 500);
  test.strictSame(replayed, [91, 92, 93, 94, 95, 96, 97, 98, 99, 100]);
  test.equal(again.append(2, change('next')), 101);
  await again.cut(101);
  await again.close();
});

void t.test('P10: a tail that the dying process wrote in part is cut off, at every byte', async (test) => {
  const { disk: whole, path } = await written(3, 1);
  const bytes = whole.content(path);
  for (let length = offsetOf(bytes, 3); length < bytes.length; length++) {
    const { disk } = await written(3, 1);
    await damage(disk, path, (content) => content.subarray(0, length));
    const { log, replayed } = await open(disk);
    test.strictSame(replayed, [1, 2]);
    log.append(2, change('instead'));
    disk.kill();
    test.strictSame((await open(disk)).replayed, [1, 2, 3], 'what is written after the cut is found again');
  }
});

void t.test('damage within what was promised refuses the start, with a remedy', async (test) => {
  for (const boot of ['same', 'another']) {
    for (const sequence of [1, 2, 3]) {
      const { disk, path } = await written(6, 4);
      if (boot === 'another') disk.powerLoss();
      await damage(disk, path, (content) => {
        const at = offsetOf(content, sequence) + 12;
        content.writeUInt8(content.readUInt8(at) ^ 1, at);
        return content;
      });
      const paths = disk.paths();
      if (boot === 'another' && !survives(disk, path)) continue;
      await test.rejects(open(disk), { code: 'CORRUPT', message: /record \d+ at byte \d+ of .*backup/ }, boot);
      test.strictSame(disk.paths(), paths, 'nothing was removed');
    }
  }
});

/** Whether records behind the durable ones outlived a power loss: they are the evidence. */
function survives(disk: CrashDisk, path: string): boolean {
  return disk.content(path).includes('record 5') || disk.content(path).includes('record 6');
}

void t.test('a hole that power loss left in what was never flushed is cut off', async (test) => {
  const { disk, path } = await written(6, 2);
  const bytes = Buffer.from(disk.content(path));
  disk.powerLoss();
  await damage(disk, path, () => {
    bytes.fill(0, offsetOf(bytes, 4), offsetOf(bytes, 5));
    return bytes;
  });
  const { replayed, log } = await open(disk);
  test.strictSame(replayed, [1, 2, 3]);
  test.equal(log.append(2, change('x')), 4);
  await log.close();
});

void t.test('damage in what the store has already does no harm', async (test) => {
  const { disk, path } = await written(6, 6);
  await damage(disk, path, (content) => {
    content.fill(0xee, offsetOf(content, 2) + 10, offsetOf(content, 3) + 5);
    return content;
  });
  const { replayed } = await open(disk, 4);
  test.strictSame(replayed, [5, 6]);
});

async function damage(disk: CrashDisk, path: string, change: (content: Buffer) => Buffer): Promise<void> {
  const content = change(Buffer.from(disk.content(path)));
  const file = await disk.open('test', path, 'existing');
  await file.truncate('test', 0);
  await file.write('test', content, 0);
  await file.datasync('test');
}

void t.test('a write or a sync that fails is the end: nothing is acknowledged any more', async (test) => {
  for (const label of ['oplog.append', 'oplog.flush', 'oplog.create']) {
    const disk = newDisk();
    const { log, failures } = await open(disk, 0, 300);
    log.append(1, change('good'));
    await log.durable();
    disk.failOn(label);
    const outcomes: string[] = [];
    for (let i = 0; i < 20 && failures.length === 0; i++) {
      try {
        log.append(1, change(`record ${i}`));
        await log.durable();
      } catch (error) {
        outcomes.push((error as CairnError).code);
      }
      await settle();
    }
    test.equal(failures.length, 1, `${label}: the owner is told once`);
    test.match(failures[0], { code: 'UNAVAILABLE', message: /injected fault.*start it again/ });
    test.throws(() => log.append(1, change('late')), { code: 'UNAVAILABLE' });
    await test.rejects(log.durable(), { code: 'UNAVAILABLE' });
    await log.close();
    test.equal(failures.length, 1);
    disk.kill();
    const { replayed } = await open(disk);
    test.ok(replayed.length >= 1, 'a new start goes on with what was written');
  }
});

void t.test(
  'a segment that a full disk let neither begin nor delete is taken over by the next attempt',
  async (test) => {
    const disk = newDisk();
    const { log, failures } = await open(disk, 0, 300);
    disk.failOn('oplog.header', 0, 'ENOSPC');
    disk.failOn('oplog.create', 2, 'ENOSPC'); // after the open and the truncate: the unlink
    let last = 0;
    for (let i = 0; i < 40; i++) {
      last = log.append(1, change('x'.repeat(4096)));
      await settle();
    }
    test.strictSame(failures, []);
    await log.durable();
    let segments = 0;
    for await (const name of disk.list('test', 'log')) if (name.length > 0) segments++;
    test.ok(segments > 2, 'it went on in another segment');
    disk.kill();
    test.equal((await open(disk)).replayed.length, last);
  },
);

void t.test('a directory with other files, and a segment of another format', async (test: Test) => {
  const { disk, path } = await written(2, 2);
  await (await disk.open('test', 'log/README', 'create')).write('test', Buffer.from('hello'), 0);
  test.strictSame((await open(disk)).replayed, [1, 2]);
  disk.kill();
  await damage(disk, path, (content) => {
    content.fill(0, 0, 64);
    return content;
  });
  await test.rejects(open(disk), { code: 'CORRUPT' }, 'a header that is gone before records that were promised');
});

void t.test(
  'a log that begins behind the end of the store is of another moment: refused, and nothing is removed',
  async (test) => {
    for (const how of ['kill', 'power loss']) {
      const disk = newDisk();
      const { log } = await open(disk, 0, 128);
      for (let i = 1; i <= 60; i++) {
        log.append(1, change(`${i}`));
        await log.durable();
        await settle();
      }
      await log.cut(40);
      if (how === 'kill') disk.kill();
      else disk.powerLoss();
      // The store was copied a while before the log was.
      await test.rejects(open(disk, 20), { code: 'CORRUPT', message: /not of the same moment/ }, how);
      test.equal((await open(disk, 40)).replayed.at(-1), 60, `${how}: with the store of that moment all is there`);
    }
  },
);

/** Nine records in three segments and the begun fourth, all durable; its process is dead. */
async function segmented(boot: 'same' | 'another'): Promise<CrashDisk> {
  const disk = newDisk();
  const { log } = await open(disk, 0, 200);
  for (let i = 1; i <= 9; i++) {
    log.append(1, new Map([[`I${i}`, Buffer.from(`record ${i} `.repeat(3))]]));
    await settle();
  }
  await log.durable();
  if (boot === 'same') disk.kill();
  else disk.powerLoss();
  return disk;
}

void t.test('rot anywhere in the log is harmless or refuses the start, as long as the machine was up', async (test) => {
  const paths = (await segmented('same')).paths();
  test.equal(paths.length, 4);
  const last = paths[2] ?? '';
  // A write that was cut short by the end of the process looks like damage of the length of the last record.
  const end = offsetOf((await segmented('same')).content(last), 9);
  for (const checkpoint of [0, 5]) {
    for (const path of paths) {
      const size = (await segmented('same')).content(path).length;
      for (let at = 0; at < size; at++) {
        for (const how of ['a bit', 'zeros', 'the rest', 'cut']) {
          const isEnd = path === last && (how === 'cut' || (at >= end && at < end + 4));
          if (isEnd) continue;
          const disk = await segmented('same');
          const before = disk.content(path);
          await damage(disk, path, (content) => {
            if (how === 'cut') return content.subarray(0, at);
            if (how === 'a bit') content.writeUInt8(content.readUInt8(at) ^ 1, at);
            else content.fill(0, at, how === 'zeros' ? Math.min(size, at + 8) : size);
            return content;
          });
          if (disk.content(path).equals(before)) continue;
          const outcome = await open(disk, checkpoint, 200).then(
            ({ replayed }) => replayed.at(-1),
            (error: unknown) => (error as CairnError).code,
          );
          if (outcome !== 9 && outcome !== 'CORRUPT')
            test.fail(`${how} at ${at} of ${path}, checkpoint ${checkpoint}: ${outcome}`);
        }
      }
    }
  }
});

void t.test(
  'damage in a segment of which the store has all does no harm to the next, after a power loss too',
  async (test) => {
    for (const boot of ['same', 'another'] as const) {
      const [first = ''] = (await segmented(boot)).paths();
      const { length } = (await segmented(boot)).content(first);
      for (const at of [0, 40, 70, length - 1]) {
        const disk = await segmented(boot);
        await damage(disk, first, (content) => content.fill(0xee, at, Math.min(length, at + 30)));
        const { replayed, log } = await open(disk, 5, 200);
        test.strictSame(replayed, [6, 7, 8, 9], `${boot} boot, at ${at}`);
        await log.cut(9);
        test.notOk(disk.paths().includes(first), 'it is deleted with the others');
      }
    }
  },
);
