/** The lint rule `watched-promises` on planted faults, and on what is right. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ESLint } from 'eslint';
import t from 'tap';
import tseslint from 'typescript-eslint';
import { deferred, unawaited, watched } from '../../src/core/sync.js';

const HEAD = `
declare function send(): Promise<number>;
declare function other(): Promise<void>;
declare function use(sent: unknown, more?: unknown): void;
declare function watched<T>(promise: Promise<T>): Promise<T>;
declare const sends: Promise<number>[];
declare const byName: Map<string, Promise<number>>;
declare const list: number[];
export class Place { sending: Promise<number> | undefined; all: Promise<number>[] = [];
`;

const FAULTS: Readonly<Record<string, string>> = {
  'awaited after something else': 'const sent = send(); await other(); await sent;',
  'one of two': 'const a = send(); const b = send(); use(await a, await b);',
  'pushed into a list': 'for (const _ of list) { await other(); sends.push(send()); } await Promise.all(sends);',
  'kept in a map': "byName.set('a', send());",
  'kept in a map under a name': "const sent = send(); byName.set('a', sent);",
  'kept in a field': 'this.sending = send(); await other();',
  'kept in a field if there is none': 'this.sending ??= send(); await other();',
  'kept in an object': 'use({ sent: send() });',
  'kept with a handler for success only': 'this.sending = send().then((count) => count + 1);',
  'kept with a clean-up only': 'this.sending = send().finally(() => undefined);',
  'a call with a pause between its arguments': 'use(send(), await other());',
  'a list with a pause between its elements': 'await Promise.all([send(), await other()]);',
  'awaited one by one': 'for (const sent of list.map(() => send())) await sent;',
  'a list awaited one by one': 'const all = list.map(() => send()); for (const sent of all) await sent;',
  'left by a return': 'const sent = send(); if (list.length > 0) return; await sent;',
  'used in a callback only': 'const sent = send(); list.forEach(() => use(sent));',
  'an executor that may reject': 'this.sending = new Promise((resolve, reject) => use(resolve, reject));',
  void: 'void send();',
  'used under a condition only': 'const sent = send(); if (list.length > 0) await sent;',
  'used at once in one branch, late in the other':
    'const sent = send(); if (list.length > 0) { await sent; } else { await other(); await sent; }',
  'used by one side of an expression': 'const sent = send(); return list.length > 0 ? sent : 0;',
  'used behind an and': 'const sent = send(); list.length > 0 && (await sent);',
  'used in a loop that may not run': 'const sent = send(); for (const one of list) use(one, await sent);',
  'used in a case': 'const sent = send(); switch (list.length) { case 0: await sent; }',
  'spread into a list': 'sends.push(...list.map(() => send())); await other();',
  'spread into a new list': 'this.all = [...list.map(() => send())]; await other();',
  'appended to a copy': 'this.all = sends.concat(send()); await other();',
  'put into the middle': 'sends.splice(0, 1, send()); await other();',
  'a handler that throws on': 'const sent = send().catch((error) => { throw error; }); await other(); await sent;',
  'a second handler that throws on':
    'this.sending = send().then((n) => n, (error) => { if (list.length > 0) throw error; return 0; });',
  'a handler that rejects on': 'this.sending = send().catch((error) => Promise.reject(error));',
  'a handler that makes another promise': 'this.sending = send().catch(() => send());',
  'a handler that is async': 'this.sending = send().catch(async () => { await other(); return 0; });',
  'waited for in turn': 'for await (const sent of list.map(() => send())) use(sent);',
  'behind a comma': 'const sent = (use(1), send()); await other(); await sent;',
  'of a type that it satisfies': 'const sent = send() satisfies Promise<number>; await other(); await sent;',
  'a default of a parameter': 'const run = async (sent = send()) => { await other(); await sent; }; await run();',
  'a default in a pattern': 'const { sent = send() } = {} as { sent?: Promise<number> }; await other(); await sent;',
  'a list in a variable of another name': 'let sent: Promise<number>; sent = send(); await other(); await sent;',
  'made by a call in place': 'const sent = (async () => { throw new Error(); })(); await other(); await sent;',
  'one that is rejected': "const sent = Promise.reject(new Error('')); await other(); await sent;",
  'put at a place in a list': 'sends[0] = send(); await other();',
  'made in a field by a declaration': 'const keep = new Map([["a", send()]]); await other(); use(keep);',
  'joined by all, and kept': 'const all = Promise.all(list.map(() => send())); await other(); await all;',
};

const RIGHT: Readonly<Record<string, string>> = {
  'awaited at once': 'const sent = send(); await sent;',
  'awaited together': 'const a = send(); const b = send(); await Promise.all([a, b]);',
  watched: 'const sent = watched(send()); await other(); await sent;',
  'watched in a list': 'for (const _ of list) { sends.push(watched(send())); await other(); }',
  'with a handler': 'this.sending = send().catch(() => 0); await other();',
  'with a handler of its own': 'const sent = send(); sent.catch(() => undefined); await other(); await sent;',
  'kept in a field and awaited': 'this.sending ??= send(); await this.sending;',
  'kept in a field and returned': 'this.sending ??= send(); return this.sending;',
  'taken out of a list': 'const sent = sends.shift(); await other(); await sent;',
  'an executor that cannot reject': 'this.sending = new Promise((resolve) => use(resolve)); await other();',
  'a handler that throws nothing': 'this.sending = send().catch((error) => { use(error); return 0; }); await other();',
  'a handler that throws, awaited at once': 'await send().catch((error) => { throw error; });',
  'used in both branches at once':
    'const sent = send(); if (list.length > 0) { await sent; } else { use(await sent); }',
  'used if it is a promise': 'const sent = list.length > 0 ? send() : undefined; if (sent !== undefined) await sent;',
  'kept and returned': 'const sent = send(); this.sending = sent; return sent;',
  'watched and conditional': 'const sent = watched(send()); if (list.length > 0) await sent;',
  'made in the branch that uses it': 'if (list.length > 0) { const sent = send(); await sent; }',
  'a list waited for together': 'const all = list.map(() => send()); await Promise.all(all);',
};

t.test('the lint rule', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-lint-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const cases = [
    ...Object.entries(FAULTS).map(([name, body]) => ({ name, body, isFault: true })),
    ...Object.entries(RIGHT).map(([name, body]) => ({ name, body, isFault: false })),
  ];
  await writeFile(join(directory, 'tsconfig.json'), '{ "compilerOptions": { "strict": true, "target": "es2022" } }');
  for (const [i, { body }] of cases.entries()) {
    await writeFile(join(directory, `case-${i}.ts`), `${HEAD} async run(): Promise<unknown> { ${body} return 0; } }\n`);
  }
  const path = new URL('../../../scripts/lint/watched-promises.mjs', import.meta.url).pathname;
  const { default: rule } = (await import(path)) as { default: never };
  const eslint = new ESLint({
    cwd: directory,
    overrideConfigFile: true,
    overrideConfig: [
      {
        files: ['**/*.ts'],
        languageOptions: {
          parser: tseslint.parser,
          parserOptions: { projectService: true, tsconfigRootDir: directory },
        },
        plugins: { cairn: { rules: { 'watched-promises': rule } }, '@typescript-eslint': tseslint.plugin },
        rules: {
          'cairn/watched-promises': 'error',
          '@typescript-eslint/no-floating-promises': ['error', { ignoreVoid: false }],
        },
      },
    ],
  });
  const results = await eslint.lintFiles(['case-*.ts']);
  for (const [i, { name, isFault }] of cases.entries()) {
    const found = results.find(({ filePath }) => filePath.endsWith(`/case-${i}.ts`))?.messages ?? [];
    t.equal(found.length > 0, isFault, `${name}: ${found[0]?.message ?? 'nothing found'}`);
  }
});

t.test('a promise that is watched rejects for whoever awaits it, and for nobody else', async (t) => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', note);
  t.teardown(() => process.off('unhandledRejection', note));
  const kept = watched(Promise.reject(new Error('kept')));
  const later = deferred<void>();
  later.reject(new Error('later'));
  const told: unknown[] = [];
  const logger = { error: (fields: object) => void told.push(fields) };
  unawaited(Promise.reject(new Error('left')), logger as never, 'some work');
  await new Promise((resolve) => setImmediate(resolve));
  await t.rejects(kept, { message: 'kept' });
  await t.rejects(later.promise, { message: 'later' });
  t.match(told, [{ what: 'some work', err: { message: 'left' } }]);
  t.same(unhandled, []);
});
