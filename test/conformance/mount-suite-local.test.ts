/** The control of the mount suite: a local directory passes it. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'cairn-local-'));
// Other users must be able to reach the directory for their permissions in it to be tried.
fs.chmodSync(directory, 0o755);
t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }));

const suite = fileURLToPath(new URL('mount-suite.js', import.meta.url));
await t.spawn(process.execPath, [suite, directory], {}, 'the mount suite on a local directory');
