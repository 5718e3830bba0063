/**
 * `npm ci` of a real package on a mount, with its cache there too; what is installed equals an installation on a local
 * disk, and runs. Packages come from the registry that npm is configured for: without it the test is skipped, and says so.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const TIMEOUT_MS = 120_000;
const QUIET = '--no-audit --no-fund --no-update-notifier --loglevel=error';
/** Some seventy packages, a few of them with programs. */
const MANIFEST = JSON.stringify({
  name: 'on-a-mount',
  version: '1.0.0',
  private: true,
  dependencies: { express: '4', semver: '7', mkdirp: '3' },
});
const SERVER = `
const app = require('express')();
app.get('/', (request, response) => response.json({ served: true }));
const server = app.listen(0, '127.0.0.1', async () => {
  const answer = await fetch('http://127.0.0.1:' + server.address().port);
  console.log(JSON.stringify(await answer.json()));
  server.close();
  server.closeAllConnections();
});`;

/** Why the registry cannot be had, or false. */
async function noRegistry(): Promise<string | false> {
  try {
    await shell('npm ping --fetch-retries=1 --fetch-timeout=15000', { timeoutMs: 40_000 });
    return false;
  } catch (error) {
    return `THE NPM REGISTRY CANNOT BE REACHED, so npm was not tried on a mount: ${String(error).slice(0, 200)}`;
  }
}

t.test('npm ci', { skip: needsKernelDriver('npm') || (await noRegistry()) }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const local = await mkdtemp(join(tmpdir(), 'cairn-npm-'));
  t.teardown(() => rm(local, { recursive: true, force: true }));
  const run = (directory: string, script: string, ...args: string[]): Promise<string> =>
    shell(script, { directory, args, timeoutMs: TIMEOUT_MS });
  /** Kinds, modes and targets; diff compares the rest. */
  const shape = (directory: string): Promise<string> =>
    run(directory, "find node_modules -printf '%p %y %m %l\\n' | sort");

  const isAsLocal = async (t: Test, project: string): Promise<void> => {
    t.equal(await run(local, 'diff -r --no-dereference node_modules "$1"', join(project, 'node_modules')), '');
    t.equal(await shape(project), await shape(local));
    t.equal(await run(project, 'node server.cjs'), '{"served":true}\n');
    t.equal(await run(project, './node_modules/.bin/semver -r "^1.2.0" 1.1.9 1.2.3 2.0.0'), '1.2.3\n');
    await run(project, 'npm ls --all');
  };

  await run(
    local,
    `printf %s "$1" > package.json; printf %s "$2" > server.cjs; npm install --package-lock-only ${QUIET}
     npm ci ${QUIET} --cache cache; mkdir "$3/project"; cp package.json package-lock.json server.cjs "$3/project"`,
    MANIFEST,
    SERVER,
    a,
  );
  const count = Number(await run(local, 'find node_modules -name package.json | wc -l'));
  t.ok(count > 50, `${count} packages`);
  const project = join(a, 'project');

  await t.test('with the cache on the mount', async (t) => {
    const started = performance.now();
    await run(project, `npm ci ${QUIET} --cache ../cache`);
    t.comment(`npm ci took ${((performance.now() - started) / 1000).toFixed(1)} s`);
    await dropCaches();
    await isAsLocal(t, project);
    await isAsLocal(t, join(b, 'project'));
  });

  await t.test('again, over what is there; the other mount then, from the cache alone', async (t) => {
    await run(project, `npm ci ${QUIET} --cache ../cache --prefer-offline`);
    await isAsLocal(t, project);
    await run(join(b, 'project'), `npm ci ${QUIET} --cache ../cache --offline`);
    await isAsLocal(t, project);
    await run(b, `npm cache verify --cache cache`);
  });

  await t.test('pack, install from the archive, prune, remove', async (t) => {
    await run(
      project,
      `npm pack ${QUIET}; mkdir ../user; cd ../user; echo '{}' > package.json
      npm install ${QUIET} --cache ../cache --prefer-offline ../project/on-a-mount-1.0.0.tgz`,
    );
    t.equal(await run(join(a, 'user'), `node -p 'require("on-a-mount/package.json").version'`), '1.0.0\n');
    await run(project, `npm uninstall ${QUIET} --cache ../cache --prefer-offline express; npm prune ${QUIET}`);
    t.same((await run(project, 'ls node_modules')).trim().split('\n'), ['mkdirp', 'semver']);
  });
});
