/**
 * Does one row in one place, and prints what it did as JSON, an `Answer`. usage: worker.js ROW COLD-WAIT-MS PLACE-AS-JSON.
 * It is a process of its own, so that the bench itself never waits for a mount, and its heap is the same for each row.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { GROUPS } from './rows/index.js';
import { run, type Place } from './rows/row.js';
import { cpuSecondsBetween, cpuTimes } from './targets/processes.js';

export interface Answer {
  /** 0 for rows in seconds. */
  readonly units: number;
  readonly seconds: number;
  /** That the target's processes used meanwhile. */
  readonly cpuSeconds: number;
}

const [name, coldWaitMs, placeText] = process.argv.slice(2);
const row = GROUPS.flatMap(({ rows }) => rows).find((candidate) => candidate.name === name);
if (row === undefined || placeText === undefined) throw new Error(`no row is called '${name ?? ''}'`);
const place = JSON.parse(placeText) as Place;
mkdirSync(place.directory, { recursive: true });

// What the row before left to be written is not this one's work.
run('sync', []);
if (row.cold === true && process.getuid?.() === 0) {
  writeFileSync('/proc/sys/vm/drop_caches', '3');
  // The mounts' own processes believe names and attributes for a second.
  await pause(Number(coldWaitMs));
}
try {
  const work = await row.start(place);
  if (row.warm === true) await work();
  const before = cpuTimes(place.processes);
  const started = performance.now();
  const units = (await work()) ?? 0;
  const seconds = (performance.now() - started) / 1000;
  const answer: Answer = { units, seconds, cpuSeconds: cpuSecondsBetween(before, cpuTimes(place.processes)) };
  process.stdout.write(JSON.stringify(answer) + '\n');
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
