#!/usr/bin/env node
// Runs the static checks, two at a time, and prints a line for each; what a failing one said follows.
//
// usage: node scripts/check.mjs [NAME...]      default: all
import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);

// Longest first, so that two cores end together.
const CHECKS = {
  lint: ['eslint/bin/eslint.js', '--max-warnings=0', '.'],
  types: ['typescript/bin/tsc', '-p', '.', '--noEmit', '--incremental', 'false'],
  'dead-code': ['knip/bin/knip.js', '--no-progress', '--no-config-hints'],
  format: ['prettier/bin/prettier.cjs', '--check', '--log-level=warn', '.'],
  directions: ['dependency-cruiser/bin/dependency-cruise.mjs', '--config', '.dependency-cruiser.cjs', 'src'],
};

function run(name) {
  const [script, ...args] = CHECKS[name];
  const started = performance.now();
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join('node_modules', script), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    child.stderr.on('data', (data) => (output += data));
    child.on('error', (error) => resolve({ name, passed: false, output: String(error) }));
    child.on('close', (code) => {
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      console.log(`${code === 0 ? 'ok    ' : 'FAILED'} ${name.padEnd(10)} ${seconds} s`);
      resolve({ name, passed: code === 0, output });
    });
  });
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(CHECKS);
const unknown = wanted.filter((name) => !(name in CHECKS));
if (unknown.length > 0) {
  console.error(`check: unknown check '${unknown.join(', ')}'; there are ${Object.keys(CHECKS).join(', ')}`);
  process.exit(2);
}
if (!existsSync('src/protocol/generated/messages.ts')) {
  console.error('check: the generated messages are missing: run `npm run build` first');
  process.exit(2);
}

const queue = [...wanted];
const results = [];
const worker = async () => {
  for (let name = queue.shift(); name !== undefined; name = queue.shift()) results.push(await run(name));
};
await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker));

const failures = results.filter((result) => !result.passed);
for (const { name, output } of failures) console.log(`\n--- ${name}\n${output.trimEnd()}`);
const summary = `${results.length - failures.length} passed, ${failures.length} failed`;
console.log(`\n${summary}`);
if (process.env.TEST_RESULTS) writeFileSync(process.env.TEST_RESULTS, `${summary}, 0 skipped\n`);
process.exitCode = failures.length === 0 ? 0 : 1;
