/**
 * The conformance suite of a mounted directory: a program that is given any directory and prints TAP.
 *
 *   node mount-suite.js DIRECTORY [--without=CAPABILITY,...]
 *
 * It must not run in the process that serves the mount, since it makes synchronous calls on it: the tests start it as
 * a child. Run on a local directory it is its own control.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { mountAttributeCases } from './mount/attributes.js';
import { mountDataCases } from './mount/data.js';
import { CAPABILITIES, MountContext } from './mount/harness.js';
import type { Capability } from './mount/harness.js';
import { mountNamespaceCases } from './mount/namespace.js';

const [directory, ...options] = process.argv.slice(2);
assert.ok(directory !== undefined, 'usage: mount-suite DIRECTORY [--without=CAPABILITY,...]');
const missing = new Set<string>();
for (const option of options) {
  const names = /^--without=(.*)$/.exec(option)?.[1]?.split(',') ?? assert.fail(`unknown option ${option}`);
  for (const name of names.filter((each) => each !== '')) {
    assert.ok(CAPABILITIES.includes(name as Capability), `unknown capability ${name}: one of ${CAPABILITIES.join()}`);
    missing.add(name);
  }
}
// Another user's permissions can be tried only by root.
if (process.getuid?.() !== 0) missing.add('identity').add('devices');

for (const [index, each] of [...mountNamespaceCases, ...mountDataCases, ...mountAttributeCases].entries()) {
  const lacking = each.needs?.filter((need) => missing.has(need)) ?? [];
  const skip = lacking.length > 0 && `without ${lacking.join(', ')}`;
  await t.test(each.name, { skip }, async () => {
    const dir = path.join(directory, `mount-case-${index}`);
    fs.mkdirSync(dir);
    await each.run(new MountContext(dir));
    fs.rmSync(dir, { recursive: true });
  });
}
