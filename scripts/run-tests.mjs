#!/usr/bin/env node
// Runs compiled test files (dist/test/**/*.test.js), each a program of its own that speaks TAP, two at a time, each
// with a time limit. Whatever a test leaves behind — processes, mounts, files — is removed and told.
//
// usage: node scripts/run-tests.mjs [--jobs N] [--limit SECONDS] [--node PROGRAM] FOLDER_OR_FILE...
//   FOLDER_OR_FILE   below test/, such as `core`, `integration` or `mount/mount.test.ts`
//   --limit          time for one file (default 120)
//   --node           another Node.js, for the tests and all that they start (default: the one that runs this)
// The file that TEST_RESULTS names, if any, gets `N passed, N failed, N skipped` (scripts/test adds them up);
// to the one that TEST_TIMES names, a line `SECONDS FILE` is added for each file.
import { execFileSync, spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  mkdtempSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const compiled = join(root, 'dist/test');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    jobs: { type: 'string', default: '2' },
    limit: { type: 'string', default: '120' },
    node: { type: 'string', default: process.execPath },
  },
});
const limitSeconds = Number(values.limit);

/** The test files that `name` stands for: a folder, or one file with or without its ending. */
function filesOf(name) {
  const path = join(compiled, name.replace(/^(dist\/)?test(\/|$)/, '').replace(/\.ts$/, '.js'));
  const kind = statSync(path, { throwIfNoEntry: false });
  if (kind === undefined) return [];
  if (kind.isFile()) return [path];
  return readdirSync(path, { recursive: true })
    .filter((entry) => entry.endsWith('.test.js'))
    .sort()
    .map((entry) => join(path, entry));
}

/** A compiled file whose source is gone must not run on. */
const hasSource = (file) =>
  statSync(join(root, relative(join(root, 'dist'), file).replace(/\.js$/, '.ts')), { throwIfNoEntry: false }) !==
  undefined;

const runDirectory = mkdtempSync(join(tmpdir(), 'cairn-tests-'));
// Tests that act as other users must reach what is below.
chmodSync(runDirectory, 0o711);

/** Processes that were started with `mark` in their environment, other than zombies. */
function processesWith(mark) {
  const found = [];
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      if (!readFileSync(`/proc/${entry}/environ`, 'latin1').split('\0').includes(mark)) continue;
      const command = readFileSync(`/proc/${entry}/cmdline`, 'latin1').split('\0').join(' ').trim();
      if (command !== '') found.push({ pid: Number(entry), command });
    } catch (error) {
      // Ended meanwhile, or another user's.
      if (!['ENOENT', 'ESRCH', 'EACCES', 'EPERM'].includes(error.code)) throw error;
    }
  }
  return found;
}

const mountsBelow = (directory) =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4]?.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8))))
    .filter((path) => path?.startsWith(directory + '/'))
    .reverse();

/** Kills and unmounts what a test left, and says what it was. The lazy unmount comes first: a mount may hang. */
function cleanUp(mark, directory) {
  const notes = [];
  const left = processesWith(mark);
  for (const path of mountsBelow(directory)) {
    notes.push(`left ${path} mounted`);
    const [command, ...args] = process.getuid() === 0 ? ['umount', '-l', path] : ['fusermount3', '-uz', path];
    try {
      execFileSync(command, args, { stdio: 'ignore', timeout: 10_000 });
    } catch {
      notes.push(`cannot unmount ${path}`);
    }
  }
  for (const { pid, command } of left) {
    notes.push(`left process ${pid}: ${command.slice(0, 160)}`);
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }
  if (mountsBelow(directory).length === 0) {
    try {
      rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    } catch (error) {
      notes.push(`cannot remove ${directory}: ${error.message}`);
    }
  }
  return notes;
}

/** Counts the tests of the file's top level; deeper ones are their parts. */
function count(tap) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const line of tap.split('\n')) {
    if (/^(not )?ok\b.*# (SKIP|TODO)/i.test(line) || /^1\.\.0 # SKIP/i.test(line)) counts.skipped++;
    else if (line.startsWith('ok ')) counts.passed++;
    else if (line.startsWith('not ok ')) counts.failed++;
  }
  return counts;
}

let runs = 0;
const running = new Map();

function runFile(file) {
  const mark = `CAIRN_TEST_MARK=${process.pid}-${++runs}`;
  const directory = join(runDirectory, String(runs));
  mkdirSync(directory);
  const started = performance.now();
  return new Promise((resolve) => {
    const child = spawn(values.node, ['--enable-source-maps', file], {
      cwd: root,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        // What a test starts by the name `node` is the same one.
        PATH: `${dirname(values.node)}:${process.env.PATH}`,
        TMPDIR: directory,
        // tap then names the test that hangs, before this program kills it.
        TAP_TIMEOUT: String(Math.max(1, limitSeconds - 5)),
        [mark.split('=')[0]]: mark.split('=')[1],
      },
    });
    running.set(child.pid, { mark, directory });
    let stdout = '';
    let stderr = '';
    let timedOut = false;
    child.stdout.on('data', (data) => (stdout += data));
    // The end of the log is what tells why.
    child.stderr.on('data', (data) => (stderr = (stderr + data).slice(-200_000)));
    const timer = setTimeout(() => {
      timedOut = true;
      killGroup(child.pid);
    }, limitSeconds * 1000);
    let settled = false;
    const finish = (code, signal) => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      child.stdout.destroy();
      child.stderr.destroy();
      const notes = cleanUp(mark, directory);
      running.delete(child.pid);
      const counts = count(stdout);
      if (timedOut) notes.push(`did not end within ${limitSeconds} s`);
      else if (code !== 0) notes.push(`ended with ${signal ?? `exit code ${code}`}`);
      if (code !== 0 && counts.failed === 0) counts.failed = 1;
      if (counts.passed + counts.failed + counts.skipped === 0) {
        counts.failed = 1;
        notes.push('ran no test');
      }
      resolve({ file, counts, notes, stdout, stderr, seconds: (performance.now() - started) / 1000 });
    };
    child.on('error', (error) => {
      stderr += String(error);
      finish(1, null);
    });
    child.on('close', finish);
    // A process that a test left behind may hold the pipe: then 'close' would not come.
    child.on('exit', (code, signal) => setTimeout(() => finish(code, signal), 1000));
  });
}

function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    for (const [pid, { mark, directory }] of running) {
      killGroup(pid);
      for (const note of cleanUp(mark, directory)) console.log(note);
    }
    rmSync(runDirectory, { recursive: true, force: true });
    process.exit(130);
  });
}

/** Of a TAP stream, the lines from which a person sees what failed. */
function failuresIn(tap) {
  const lines = tap.split('\n');
  const kept = [];
  // What a random test says before it fails may not be seen a second time: its seed, and what differs.
  let said = [];
  for (let i = 0; i < lines.length && kept.length < 300; i++) {
    if (/^\s*# (?!Subtest)/.test(lines[i])) said.push(lines[i]);
    if (!/^\s*not ok /.test(lines[i]) || /# (SKIP|TODO)/i.test(lines[i])) continue;
    const seeds = said.slice(0, -60).filter((line) => /seed/i.test(line));
    kept.push(...seeds.slice(0, 10), ...said.slice(-60), lines[i]);
    said = [];
    if (!/^\s*---$/.test(lines[i + 1] ?? '')) continue;
    for (i++; i < lines.length && !/^\s*\.\.\.$/.test(lines[i]); i++) kept.push(lines[i]);
  }
  return kept.join('\n');
}

const unknown = positionals.filter((name) => filesOf(name).length === 0);
const files = [...new Set(positionals.flatMap(filesOf))].filter(hasSource);
if (positionals.length === 0 || files.length === 0) {
  console.error(`run-tests: no compiled test files for '${unknown.join(' ')}' in ${compiled}`);
  rmSync(runDirectory, { recursive: true, force: true });
  process.exit(2);
}

const total = { passed: 0, failed: 0, skipped: 0 };
const queue = [...files];
const worker = async () => {
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
    const { counts, notes, stdout, stderr, seconds } = await runFile(file);
    for (const key of Object.keys(total)) total[key] += counts[key];
    const name = relative(compiled, file).replace(/\.js$/, '.ts');
    const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : '';
    const word = counts.failed > 0 ? 'FAILED' : 'ok    ';
    console.log(
      `  ${word} ${name}: ${counts.passed} passed, ${counts.failed} failed${skipped} (${seconds.toFixed(1)} s)`,
    );
    if (process.env.TEST_TIMES) appendFileSync(process.env.TEST_TIMES, `${seconds.toFixed(1)} ${name}\n`);
    for (const note of notes) console.log(`         ${note}`);
    if (counts.failed > 0) {
      console.log([failuresIn(stdout), stderr.trim().split('\n').slice(-60).join('\n')].join('\n'));
    }
  }
};
await Promise.all(Array.from({ length: Math.max(1, Number(values.jobs)) }, worker));
rmSync(runDirectory, { recursive: true, force: true });

const summary = `${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`;
console.log(`  ${summary}`);
if (process.env.TEST_RESULTS) writeFileSync(process.env.TEST_RESULTS, summary + '\n');
process.exitCode = total.failed === 0 ? 0 : 1;
